"""The graph for ONNX Runtime."""

import numpy as np
import onnxruntime as ort
import pytest
from calib_vit import TOY_FRAMES as FRAMES

from brixel_edge.calib.engines import OrtEngine
from brixel_edge.calib.graph import load_graph
from brixel_edge.calib.layers import find_layers, result_tensor
from brixel_edge.calib.lowering.ort_lowering import ort_graph
from brixel_edge.calib.ranges.scales import IntegerLayer, Range


def test_ort_lowering_needs_no_session_options(done):
    """Level 0 to 99 of the optimiser: always integer."""
    _, folder = done
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(str(folder / "graph.int8.ort.onnx"), options)
        assert np.isfinite(session.run(None, {"image": FRAMES[0][None]})[0]).all()


def test_ort_lowering_writes_gelu_as_one_operator(parts):
    """Two of the four blocks have it as exporters write it; with no layer in INT8 only that differs."""
    graph = parts[0]
    lowered = ort_graph(graph, [], {})
    kinds = [(node.domain, node.op_type) for node in lowered.nodes]
    assert kinds.count(("com.microsoft", "Gelu")) == 2
    assert sum(node.op_type == "Erf" for node in graph.nodes) == 2 and ("", "Erf") not in kinds
    a, b = (OrtEngine(entry.serialized(), threads=1).run(FRAMES[0][None]) for entry in (graph, lowered))
    assert all(np.allclose(a[name], b[name], atol=1e-4) for name in a)


@pytest.mark.parametrize("name", ["sqrt2", "one", "half"])
def test_ort_lowering_leaves_what_is_no_gelu(parts, name):
    graph = parts[0].copy()
    graph.put(name, np.array(0.7, np.float32))
    graph.commit()
    assert not any(node.op_type == "Gelu" and node.domain for node in ort_graph(graph, [], {}).nodes)


def test_bias_of_a_convolution_is_on_the_grid_of_its_unsigned_input(float_path):
    """steps * scale of the pixels * scale of the weight = bias. From -0.5 to 3 the unsigned scale is 3.5 / 255, the
    symmetric one, which would be wrong here, 3 / 127."""
    graph = load_graph(float_path)
    convolutions = [layer for layer in find_layers(graph) if not layer.is_linear and not layer.excluded]
    seen = Range(low=-0.5, high=3.0)
    integers = [IntegerLayer(layer=layer, x=layer.x, range=seen) for layer in convolutions]
    lowered = ort_graph(graph, integers, {result_tensor(graph, layer): seen for layer in convolutions})
    checked = 0
    for layer in convolutions:
        (node,) = [node for node in lowered.nodes if node.name == f"{layer.name}/int8"]
        step = 3.5 / 255 * lowered.array(node.input[4]).astype(np.float64)
        bias = graph.array(graph.by_name[layer.name].input[2])
        assert np.all(np.abs(lowered.array(node.input[8]) * step - bias) <= step / 2 + 1e-9)
        checked += np.abs(bias).max() > 3 * step.max()
    assert checked >= 2
