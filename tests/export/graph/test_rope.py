"""Rotary positions of prefix and patches at once: the same values, fewer operators, nothing else touched."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.export.graph.rope import whole_rope

PREFIX, PATCHES, WIDTH = 5, 9, 8
TOKENS = PREFIX + PATCHES


def rotation(**changes):
    """What torch's exporter makes of timm's rotation; `changes` replaces nodes by their first output."""
    nodes = {
        "head": helper.make_node("Slice", ["x", "zero", "prefix", "two", "one"], ["head"]),
        "rest": helper.make_node("Slice", ["x", "prefix", "far", "two", "one"], ["rest"]),
        "along": helper.make_node("Mul", ["rest", "cos"], ["along"]),
        "first": helper.make_node("Split", ["rest", "halves"], ["first", "second"], axis=-1),
        "negated": helper.make_node("Neg", ["second"], ["negated"]),
        "turned": helper.make_node("Concat", ["negated", "first"], ["turned"], axis=-1),
        "across": helper.make_node("Mul", ["turned", "sin"], ["across"]),
        "sum": helper.make_node("Add", ["along", "across"], ["sum"]),
        "y": helper.make_node("Concat", ["head", "sum"], ["y"], axis=2),
    } | changes
    angles = np.random.default_rng(0).uniform(-3, 3, (PATCHES, WIDTH)).astype(np.float32)
    integers = {"zero": 0, "one": 1, "two": 2, "prefix": PREFIX, "far": 2**40}
    constants = {name: np.array([value], np.int64) for name, value in integers.items()}
    constants |= {"halves": np.array([WIDTH // 2] * 2, np.int64), "cos": np.cos(angles), "sin": np.sin(angles)}
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, TOKENS, WIDTH]) for name in "xy")
    graph = helper.make_graph(list(nodes.values()), "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def test_rotation_keeps_its_values_bit_by_bit_in_five_operators():
    model, x = rotation(), np.random.default_rng(1).standard_normal((1, 2, TOKENS, WIDTH)).astype(np.float32)
    before = run(model, x)
    assert np.array_equal(before[:, :, :PREFIX], x[:, :, :PREFIX]) and not np.allclose(before, x)
    assert whole_rope(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run(model, x), before)
    assert [node.op_type for node in model.graph.node] == ["Split", "Concat", "Mul", "Mul", "Add"]
    assert {tuple(tensor.dims) for tensor in model.graph.initializer} == {(TOKENS, WIDTH)}


def test_rotations_of_one_table_share_the_new_one():
    model = rotation()
    second = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    for node in second:
        node.input[:] = ["y" if name == "x" else f"{name}2" if f"{name}" in MADE else name for name in node.input]
        node.output[:] = [f"{name}2" for name in node.output]
    model.graph.node.extend(second)
    model.graph.output[0].name = "y2"
    x = np.random.default_rng(1).standard_normal((1, 2, TOKENS, WIDTH)).astype(np.float32)
    before = run(model, x)
    assert whole_rope(model) == 2
    assert len(model.graph.initializer) == 2
    assert np.array_equal(run(model, x), before)


MADE = {"head", "rest", "along", "first", "second", "negated", "turned", "across", "sum", "y"}


@pytest.mark.parametrize(
    "change",
    [
        {"turned": helper.make_node("Concat", ["first", "negated"], ["turned"], axis=-1)},
        {"negated": helper.make_node("Abs", ["second"], ["negated"])},
        {"head": helper.make_node("Slice", ["x", "one", "prefix", "two", "one"], ["head"])},
        {"rest": helper.make_node("Slice", ["x", "one", "far", "two", "one"], ["rest"])},
        {"sum": helper.make_node("Sub", ["along", "across"], ["sum"])},
        {"across": helper.make_node("Mul", ["turned", "rest"], ["across"])},
    ],
)
def test_what_is_no_rotation_is_left_alone(change):
    model = rotation(**change)
    before = model.SerializeToString()
    assert whole_rope(model) == 0
    assert model.SerializeToString() == before


def test_every_rotation_of_a_backbone_is_found(mini_graph):
    """Two a block; the negation of halves was the only one in the graph."""
    model = onnx.load(mini_graph("gridsample"))
    count = sum(name.endswith(".rotate") for name in (node.name for node in model.graph.node))
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph.node)
    samplers = sum(node.op_type == "GridSample" for node in model.graph.node)
    assert count == 2 * (softmaxes - samplers) > 0
    assert not any(node.op_type == "Neg" for node in model.graph.node)
