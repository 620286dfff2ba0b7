"""Editing a graph, and the graphs that INT8 does not take."""

import numpy as np
import onnx
import pytest
from calib_vit import ToyVit, small_graph
from onnx import TensorProto, helper

from brixel_edge.calib.graph import Graph, load_graph
from brixel_edge.errors import BuildError, BundleError


def test_shared_constant_is_copied_before_it_changes():
    toy = Graph(ToyVit().graph())
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
