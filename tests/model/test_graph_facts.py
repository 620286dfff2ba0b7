"""Operators and types read from an ONNX file without the onnx package, against what onnx infers."""

from __future__ import annotations

import onnx
import pytest

from brixel_edge.model.graph_facts import graph_facts


@pytest.mark.parametrize(
    "graph",
    [
        ("vit", "fp32"),
        ("vit", "fp16"),
        ("vit", "bf16"),
        ("vit_with_islands",),
        ("quantized", "fp16"),
        ("grid_sample", "bf16"),
        ("masked", "fp16"),
    ],
)
def test_types_read_from_the_file_are_those_that_onnx_infers(graphs, graph):
    names = {1: "fp32", 2: "uint8", 3: "int8", 7: "int64", 9: "bool", 10: "fp16", 16: "bf16"}
    path = graphs(*graph)
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    inferred = {
        value.name: names[value.type.tensor_type.elem_type] for value in (*model.graph.value_info, *model.graph.output)
    }
    facts = graph_facts(path)
    assert {node.output: node.dtype for node in facts.nodes} == inferred
    assert [node.operator for node in facts.nodes] == [node.op_type for node in model.graph.node]
    assert facts.opset == model.opset_import[0].version
    assert facts.inputs[0].shape == (1, 32, 48, 3)


def test_islands_and_attention_scores_of_a_graph(graphs):
    facts = graph_facts(graphs("vit_with_islands"))
    assert facts.float_islands == {"flat", "flat_map", "turn", "tokens", "norm", "norm_out"}
    assert facts.attention_scores == {"qk", "scores"}
    assert graph_facts(graphs("vit", "fp16")).float_islands == frozenset()
    assert graph_facts(graphs("vit", "fp32")).float_islands == frozenset()


def test_a_cast_at_the_end_does_not_make_an_fp16_graph(graphs, tmp_path):
    model = onnx.load(graphs("vit"))
    model.graph.node[-1].CopyFrom(
        onnx.helper.make_node("Cast", [model.graph.node[-1].input[0]], ["features"], to=onnx.TensorProto.FLOAT16)
    )
    onnx.save(model, tmp_path / "cast.onnx")
    assert graph_facts(tmp_path / "cast.onnx").precisions == ("fp32",)
