"""The graph index, the partition into candidates and exclusions, the tracing of channels, and cutting."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calib_vit import ToyVit, toy_frames
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.calib.choice.cutting import first_part, live_tensors, second_part, size_bytes
from brixel_edge.calib.choice.memory import peak_live_bytes, require_memory
from brixel_edge.calib.graph import Graph, load_graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.ranges.smooth import find_groups
from brixel_edge.calib.ranges.tracing import trace_gate, trace_values
from brixel_edge.errors import BuildError, BundleError, MemoryBudgetError


def small_graph(nodes, shapes, constants, inputs=("x",), outputs=("y",), opset=20, **further):
    """A Graph of `nodes`; `shapes` gives those of inputs and outputs."""
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "g", [info[name] for name in inputs], [info[name] for name in outputs], tensors)
    return Graph(helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, **further))


@pytest.fixture(scope="module")
def toy():
    return Graph(ToyVit().graph())


def reasons(graph):
    return {layer.output: layer.excluded for layer in find_layers(graph)}


def test_partition_of_the_toy_model(toy):
    found = reasons(toy)
    kept = {name: reason for name, reason in found.items() if reason}
    assert kept == {
        "patch": "patch embedding",
        "stem1": "first convolution on pixels",
        "sampling_offsets": "sampling offsets",
        "attention_weights": "attention weights of the sampling",
        "head3": "last 1x1 layer",
    }
    blocks = {f"{block}.{name}" for block in range(4) for name in ("qkv", "proj", "fc1", "fc2")}
    assert set(found) - set(kept) == blocks | {"stem2", "stem3", "value_proj", "output_proj", "head1", "head2"}


def test_partition_never_holds_attention_products(toy):
    products = {node.name for node in toy.nodes if node.op_type == "MatMul" and "scores" in node.output[0]}
    assert products and products.isdisjoint(layer.name for layer in find_layers(toy))


def test_macs_are_positions_times_weights(toy):
    layers = {layer.output: layer for layer in find_layers(toy)}
    assert layers["0.qkv"].macs == 54 * 128 * 384
    assert layers["stem2"].macs == 28 * 28 * 32 * 16 * 9


def test_gemm_and_transposed_weight_are_understood():
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2"], ["y"]),
    ]
    constants = {"w1": np.ones((32, 16), np.float32), "b1": np.ones(32, np.float32), "w2": np.ones((32, 8), np.float32)}
    first, second = find_layers(small_graph(nodes, {"x": (5, 16), "y": (5, 8)}, constants))
    assert (first.in_axis, first.out_axis, first.bias, first.macs) == (1, 0, "b1", 5 * 16 * 32)
    assert second.excluded == "fewer than 16 channels (32x8)"


def test_single_row_and_depthwise_stay_float():
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["a", "deep"], ["b"], kernel_shape=[3, 3], group=32, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["row"]),
        helper.make_node("MatMul", ["row", "w"], ["y"]),
    ]
    constants = {"first": np.ones((32, 32, 1, 1)), "deep": np.ones((32, 1, 3, 3)), "w": np.ones((32, 64))}
    graph = small_graph(
        nodes, {"x": (1, 32, 8, 8), "y": (1, 64)}, {name: value.astype(np.float32) for name, value in constants.items()}
    )
    assert reasons(graph) == {
        "a": "first convolution on pixels",
        "b": "fewer than 16 channels (32x1)",
        "y": "a single row",
    }


def test_gathered_sampling_is_recognised_as_sampling():
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["offsets"]),
        helper.make_node("Floor", ["offsets"], ["cells"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    weight = np.ones((16, 16), np.float32)
    outputs = {"x": (1, 9, 16), "y": (1, 9, 16), "cells": (1, 9, 16)}
    graph = small_graph(nodes, outputs, {"w0": weight, "w": weight}, outputs=("y", "cells"))
    assert reasons(graph)["offsets"] == "sampling offsets"
    assert reasons(graph)["y"] == ""


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


def test_two_parts_compute_what_the_whole_does(toy):
    start = next(position for position, node in enumerate(toy.nodes) if node.output[0] == "2.qkv.product")
    live = live_tensors(toy, start)
    assert {"2.norm1", "block2"} <= set(live)
    frame = toy_frames(1)[0][None]
    whole = ort.InferenceSession(toy.serialized()).run(["features", "dense"], {"image": frame})
    session = ort.InferenceSession(first_part(toy, start, live).serialized())
    values = dict(
        zip([entry.name for entry in session.get_outputs()], session.run(None, {"image": frame}), strict=True)
    )
    feed = {name: {**values, "image": frame}[name] for name in live}
    parts = ort.InferenceSession(second_part(toy, start, live).serialized()).run(["features", "dense"], feed)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts, strict=True))
    assert size_bytes(toy, ["2.norm1"]) == 54 * 128 * 4


def test_peak_of_live_tensors_by_hand():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Concat", ["a", "a"], ["b"], axis=1),
        helper.make_node("Concat", ["b", "a"], ["c"], axis=1),
        helper.make_node("ReduceSum", ["c"], ["y"]),
    ]
    graph = small_graph(nodes, {"x": (1, 10), "y": (1, 1)}, {})
    assert peak_live_bytes(graph) == (10 + 20 + 30) * 4  # a, b and c while c is made


def test_memory_that_does_not_suffice_is_refused(toy):
    with pytest.raises(MemoryBudgetError, match=r"at 112x112 takes about .* MiB, 100 MiB are allowed"):
        require_memory(toy, 100 << 20)
    require_memory(toy, 4 << 30)


def test_shared_constant_is_copied_before_it_changes(toy):
    graph = toy.copy()
    first, second = [node for node in graph.nodes if node.op_type == "LayerNormalization"][:2]
    second.input[1] = first.input[1]
    graph.commit()
    second = graph.by_name[second.name]
    shared = second.input[1]
    own = graph.own_constant(second, 1)
    graph.put(own, np.zeros(128, np.float32))
    assert graph.array(shared).any() and not graph.array(own).any()


def test_load_refuses_what_is_no_graph(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"not a model")
    with pytest.raises(BundleError, match="not a readable ONNX model"):
        load_graph(tmp_path / "a.onnx")


def test_load_refuses_a_float_image(tmp_path):
    graph = small_graph([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 3, 8, 8), "y": (1, 3, 8, 8)}, {})
    onnx.save(graph.model, tmp_path / "a.onnx")
    with pytest.raises(BundleError, match="one static uint8"):
        load_graph(tmp_path / "a.onnx")


def test_load_refuses_an_old_opset(tmp_path):
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, (1, 8, 8, 3))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 8, 3))
    cast = helper.make_node("Cast", ["image"], ["y"], to=TensorProto.FLOAT)
    body = helper.make_graph([cast], "g", [image], [out])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 16)], ir_version=8), tmp_path / "a.onnx")
    with pytest.raises(BuildError, match="opset 16; INT8 needs 17"):
        load_graph(tmp_path / "a.onnx")
