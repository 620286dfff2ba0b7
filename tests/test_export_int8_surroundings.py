"""INT8 graphs for TensorRT: what stays in floating point has the types of the half-precision plan, not fp32."""

import importlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from brixel_edge.export.backends import OrtBackend, RoundingBackend
from brixel_edge.export.census import assert_census
from brixel_edge.export.graph_walk import element_types
from brixel_edge.export.islands import find_islands
from brixel_edge.export.ranges import measure_ranges
from brixel_edge.export.to_half import half_from_float
from brixel_edge.parity import GATES, compare


@pytest.fixture(scope="module")
def quantized(mini_graph, mini_images, tmp_path_factory) -> onnx.ModelProto:
    """Q/DQ around every linear and convolution that INT8 is for, by their ranges on two photographs."""
    all_integer = importlib.import_module("all_integer")
    path = tmp_path_factory.mktemp("int8") / "graph.int8.onnx"
    all_integer.write(mini_graph("gridsample"), mini_images[:2], path)
    return onnx.shape_inference.infer_shapes(onnx.load(str(path)))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_integers_stay_and_their_surroundings_are_half(quantized, mini_images, tmp_path, precision):
    islands = [entry.node for entry in find_islands(quantized, measure_ranges(quantized, mini_images[:1]), precision)]
    typed = half_from_float(quantized, precision, islands)
    inferred = onnx.shape_inference.infer_shapes(typed, strict_mode=True)
    assert_census(inferred, "int8")
    half, types = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision], element_types(inferred)
    makers = {name: node for node in typed.graph.node for name in node.output}
    products = [
        node
        for node in typed.graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv")
        and all(makers[name].op_type == "DequantizeLinear" for name in node.input[:2] if name in makers)
        and all(name in makers for name in node.input[:2])
    ]
    integers = {node.op_type for node in quantized.graph.node}
    assert "QuantizeLinear" in integers
    # Each reads its dequantised inputs directly: a Cast in between would keep TensorRT from fusing them.
    expected = sum(
        node.op_type == "DequantizeLinear"
        and node.input[0] not in {out for n in quantized.graph.node for out in n.output}
        for node in quantized.graph.node
    )
    assert len(products) == expected > 20
    assert {types[node.output[0]] for node in products} == {half}
    onnx.save(quantized, str(tmp_path / "a.onnx"))
    onnx.save(typed, str(tmp_path / "b.onnx"))
    plain = OrtBackend().features(tmp_path / "a.onnx", mini_images[:1])
    mixed = RoundingBackend().features(tmp_path / "b.onnx", mini_images[:1])
    assert compare(plain, mixed).passes(GATES["int8"])
    assert not np.array_equal(plain[0], mixed[0])
