"""The census: counts of a graph made by hand, and each thing that a graph may not hold."""

import onnx
import pytest
from onnx import TensorProto, helper

from brixel_edge.errors import BuildError
from brixel_edge.export.graph.census import assert_census, census_of


def graph(
    nodes: list[onnx.NodeProto], opset: int = 18, shape: tuple[object, ...] = (1, 4), domain: str = ""
) -> onnx.ModelProto:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 3), [0.0] * 6)
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(helper.make_graph(nodes, "g", [given], [made], [weight]), opset_imports=opsets)


def test_counts_by_hand():
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    census = census_of(graph([*nodes, helper.make_node("Add", ["a", "b"], ["y"])]))
    assert (census.ops, census.nodes, census.parameters, census.opset) == ({"Relu": 2, "Add": 1}, 3, 6, 18)


@pytest.mark.parametrize("op", ["If", "Loop", "Range", "NonZero", "ScatterND", "Tile", "BatchNormalization"])
def test_forbidden_operators_are_named(op):
    with pytest.raises(BuildError, match=f"holds {op}"):
        assert_census(graph([helper.make_node(op, ["x"], ["y"])]))


@pytest.mark.parametrize("op", ["ReduceMean", "Pow"])
def test_a_layer_norm_taken_apart_is_refused(op):
    with pytest.raises(BuildError, match="a LayerNorm was taken apart"):
        assert_census(graph([helper.make_node(op, ["x"], ["y"])]))


def test_a_root_alone_is_no_layer_norm():
    assert assert_census(graph([helper.make_node("Sqrt", ["x"], ["y"])])).ops == {"Sqrt": 1}


def test_foreign_domains_opsets_and_dynamic_shapes_are_refused():
    relu = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(BuildError, match=r"foreign domain: com\.microsoft\.Gelu"):
        assert_census(graph([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], domain="com.microsoft"))
    for opset in (16, 20):
        with pytest.raises(BuildError, match=f"opset {opset}; allowed are 17 to 19"):
            assert_census(graph([relu], opset=opset))
    with pytest.raises(BuildError, match="tensor x has a dynamic shape"):
        assert_census(graph([relu], shape=("batch", 4)))


def test_an_antialiased_resize_is_refused():
    resize = helper.make_node("Resize", ["x", "", "", "s"], ["y"], name="r", mode="linear", antialias=1)
    with pytest.raises(BuildError, match="node r is an antialiased Resize"):
        assert_census(graph([resize]))
