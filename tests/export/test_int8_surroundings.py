"""INT8 graphs for TensorRT: what stays in floating point has the types of the half-precision plan, not fp32."""

import importlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.export.graph.census import assert_census
from brixel_edge.export.graph.walk import element_types
from brixel_edge.export.half.islands import find_islands
from brixel_edge.export.half.ranges import measure_ranges
from brixel_edge.export.half.to_half import half_from_float
from brixel_edge.export.judges import OrtJudge, RoundingJudge
from brixel_edge.proof.parity import GATES, compare


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
    plain = OrtJudge().outputs(tmp_path / "a.onnx", mini_images[:1])
    mixed = RoundingJudge().outputs(tmp_path / "b.onnx", mini_images[:1])
    plain, mixed = ([maps["features"] for maps in outputs] for outputs in (plain, mixed))
    assert compare(plain, mixed).passes(GATES["int8"])
    assert not np.array_equal(plain[0], mixed[0])


def test_what_pixels_are_dequantised_to_is_no_pixel_any_more():
    """image -> Cast -> Mul -> Q -> DQ -> Conv: the last pair of Q/DQ must stand at the product, without a Cast."""
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "scale"], ["pixels"], name="scale"),
        helper.make_node("QuantizeLinear", ["pixels", "step", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["dq"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["integers", "step", "zero"], ["w"], name="weight"),
        helper.make_node("Conv", ["dq", "w"], ["features"], name="conv"),
    ]
    constants = {
        "scale": np.float32(1 / 255),
        "step": np.float32(0.01),
        "zero": np.int8(0),
        "integers": np.ones((2, 3, 1, 1), np.int8),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 2, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4), dtype=np.uint8)
    islands = [island.node for island in find_islands(model, measure_ranges(model, [image]), "fp16")]
    assert islands == ["cast", "scale", "quantize"]
    typed = half_from_float(model, "fp16", islands)
    readers = {name: node.op_type for node in typed.graph.node for name in node.input}
    assert (readers["dq"], readers["w"]) == ("Conv", "Conv")
    assert typed.opset_import[0].version == 19
