"""The graph for OpenVINO and TensorRT."""

import importlib.util

import numpy as np
import onnx
import pytest

from brixel_edge.export.engine.build import build
from brixel_edge.export.engine.settings import BuildRequest, EngineSettings


def test_qdq_graph_passes_the_checker(done):
    _, folder = done
    onnx.checker.check_model(str(folder / "graph.int8.onnx"), full_check=True)


def test_qdq_graph_is_symmetric_and_scalar(done):
    """T9: zero points 0, activation scales 0-dimensional and above float16's subnormals, weights within 127."""
    _, folder = done
    model = onnx.load(folder / "graph.int8.onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    weights = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    assert len(quantizers) >= 18 and len(weights) >= 20
    for node in quantizers:
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        assert scale.shape == () and np.isfinite(scale) and scale > 6.1e-5
        assert zero == 0 and zero.dtype == np.int8
    for node in weights:
        integers, scale, zero = (constants[name] for name in node.input)
        assert integers.dtype == np.int8 and np.abs(integers.astype(int)).max() == 127
        assert scale.ndim == 1 and scale.min() > 6.1e-5 and not zero.any()


def test_qdq_graph_quantises_no_output_and_no_bias(done):
    _, folder = done
    model = onnx.load(folder / "graph.int8.onnx")
    pairs = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    readers = {node.op_type for node in model.graph.node for name in node.input if name in pairs}
    assert readers <= {"MatMul", "Gemm", "Conv"}
    for node in model.graph.node:
        assert not (node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2] in pairs)


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_qdq_graph_builds_with_tensorrt_rtx(done, tmp_path):
    """Parsed, typed and compiled ahead of time by the rules of TensorRT 11."""
    _, folder = done
    request = BuildRequest(
        graph=folder / "graph.int8.onnx",
        plan=tmp_path / "plan",
        kind="trt-rtx",
        precision="int8",
        settings=EngineSettings(),
    )
    build(request, lambda event: None)
    assert (tmp_path / "plan").stat().st_size > 1 << 20
