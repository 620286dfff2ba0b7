"""GFLOP of a graph: by hand, and as torch counts the network that it was traced from."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.export.graph.flops import gflop_of_engine, gflop_of_graph
from brixel_edge.network.flops import count_gflop


def graph_of(nodes, inputs, constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("node", "inputs", "constants", "multiplications"),
    [
        # 4 x 6 places, 8 channels out of 3, windows of 2 x 2
        (helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2]), {"x": (1, 3, 8, 12)}, {"w": (8, 3, 2, 2)},
         4 * 6 * 8 * 3 * 4),
        # depthwise: each channel of 16 reads itself
        (helper.make_node("Conv", ["x", "w"], ["y"], group=16), {"x": (1, 16, 8, 8)}, {"w": (16, 1, 3, 3)},
         36 * 16 * 9),
        (helper.make_node("MatMul", ["a", "b"], ["y"]), {"a": (1, 2, 5, 7), "b": (1, 2, 7, 11)}, {}, 2 * 5 * 7 * 11),
        (helper.make_node("Gemm", ["a", "w"], ["y"], transB=1), {"a": (5, 7)}, {"w": (11, 7)}, 5 * 7 * 11),
        (helper.make_node("Gemm", ["a", "w"], ["y"], transA=1), {"a": (7, 5)}, {"w": (7, 11)}, 5 * 7 * 11),
        (helper.make_node("Relu", ["a"], ["y"]), {"a": (5, 7)}, {}, 0),
    ],
)  # fmt: skip
def test_products_are_counted_by_hand(node, inputs, constants, multiplications):
    assert gflop_of_graph(graph_of([node], inputs, constants)) == 2 * multiplications / 1e9


def test_what_fused_operators_hide_is_not_told():
    node = helper.make_node("QLinearMatMul", ["a"], ["y"], domain="com.microsoft")
    assert gflop_of_graph(graph_of([node], {"a": (5, 7)}, {})) is None


def test_a_graph_costs_what_its_network_costs(mini_graph, mini_student):
    path = mini_graph("gridsample")
    network = count_gflop(mini_student, torch.empty(1, 3, 64, 96))
    assert gflop_of_graph(onnx.load(str(path))) == pytest.approx(network, rel=0.01)


def test_an_engine_is_counted_by_the_float_graph_beside_it(tmp_path, mini_graph):
    (tmp_path / "graph.fp32.onnx").write_bytes(mini_graph("gridsample").read_bytes())
    (tmp_path / "engine.sm87.10.3.0.fp16.plan").write_bytes(b"plan")
    told = gflop_of_engine(tmp_path / "engine.sm87.10.3.0.fp16.plan")
    assert told is not None and told == gflop_of_engine(mini_graph("gridsample"))
    (tmp_path / "graph.fp32.onnx").unlink()
    assert gflop_of_engine(tmp_path / "engine.sm87.10.3.0.fp16.plan") is None
