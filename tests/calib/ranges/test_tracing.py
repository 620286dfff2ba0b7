"""Which linears share a tensor, and which weight column stands behind which channel."""

import numpy as np
import pytest
from calib_vit import ToyVit, small_graph
from onnx import helper

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.ranges.groups import find_groups
from brixel_edge.calib.ranges.tracing import trace_gate, trace_values


@pytest.fixture(scope="module")
def toy():
    return Graph(ToyVit().graph())


def test_groups_of_the_toy_model(toy):
    kinds = {group.x: group.kind for group in find_groups(toy, find_layers(toy))}
    expected = {}
    for block in range(4):
        expected |= {f"{block}.norm1": "layer norm", f"{block}.merged": "values", f"{block}.norm2": "layer norm"}
        expected[f"{block}.fc1.gelu"] = "mul"
    assert kinds == {**expected, "feat_norm": "layer norm"}


def test_values_are_traced_to_the_last_third_of_qkv(toy):
    layer, columns = trace_values(toy, "2.merged", find_layers(toy))
    assert layer.output == "2.qkv"
    assert (columns == 256 + np.arange(128)).all()


HEADS_FIRST = np.concatenate([np.arange(16, 24), np.arange(40, 48)])


@pytest.mark.parametrize(
    ("back", "columns"),
    [([0, 3, 1, 2, 4], HEADS_FIRST), ([0, 3, 4, 1, 2], HEADS_FIRST.reshape(2, 8).T.reshape(-1))],
)
def test_values_are_traced_through_interleaved_heads(back, columns):
    """Heads first, then q, k, v within a head; merged head by head, or channel by channel."""
    heads, width, tokens = 2, 8, 6
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["qkv"]),
        helper.make_node("Reshape", ["qkv", "shape"], ["parts"]),
        helper.make_node("Transpose", ["parts"], ["turned"], perm=[0, 2, 3, 1, 4]),
        helper.make_node("Split", ["turned"], ["q", "k", "v"], axis=2, num_outputs=3),
        helper.make_node("Transpose", ["k"], ["keys"], perm=[0, 1, 2, 4, 3]),
        helper.make_node("MatMul", ["q", "keys"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=back),
        helper.make_node("Reshape", ["back", "merge"], ["merged"]),
        helper.make_node("MatMul", ["merged", "o"], ["y"]),
    ]
    constants = {
        "w": np.ones((16, 48), np.float32),
        "o": np.ones((16, 16), np.float32),
        "shape": np.array([1, tokens, heads, 3, width]),
        "merge": np.array([1, tokens, 16]),
    }
    graph = small_graph(nodes, {"x": (1, tokens, 16), "y": (1, tokens, 16)}, constants)
    _, found = trace_values(graph, "merged", find_layers(graph))
    assert (found == columns).all()


def test_values_read_elsewhere_are_not_traced():
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"]),
        helper.make_node("MatMul", ["x", "wv"], ["v"]),
        helper.make_node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "o"], ["projected"]),
        helper.make_node("Add", ["projected", "v"], ["y"]),
    ]
    constants = {name: np.ones((16, 16), np.float32) for name in ("wq", "wv", "o")}
    graph = small_graph(nodes, {"x": (1, 6, 16), "y": (1, 6, 16)}, constants)
    assert trace_values(graph, "mixed", find_layers(graph)) is None


def test_gate_is_traced_to_the_up_branch():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["both"]),
        helper.make_node("Split", ["both"], ["gate", "up"], axis=-1, num_outputs=2),
        helper.make_node("Sigmoid", ["gate"], ["open"]),
        helper.make_node("Mul", ["gate", "open"], ["silu"]),
        helper.make_node("Mul", ["silu", "up"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "o"], ["y"]),
    ]
    constants = {"w": np.ones((16, 64), np.float32), "o": np.ones((32, 16), np.float32)}
    graph = small_graph(nodes, {"x": (1, 6, 16), "y": (1, 6, 16)}, constants)
    layer, columns = trace_gate(graph, "hidden", find_layers(graph))
    assert layer.output == "both"
    assert (columns == np.arange(32, 64)).all()
