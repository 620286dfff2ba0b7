"""fp32 graph -> strongly typed fp16 or bf16 graph with fp32 islands: every tensor has the type it is computed in.

No builder flag is left to decide anything: between half and fp32 stands a Cast. LayerNormalization reads and writes
half and keeps its statistics in fp32 (`stash_type` 1, which TensorRT and ONNX Runtime honour). Made by our own pass and
not by a blanket cast, which knows no islands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import ml_dtypes
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from brixel_edge.errors import BuildError
from brixel_edge.export.graph.walk import element_types
from brixel_edge.model.spec import ANSWER, Half

ONNX_TYPES: dict[Half, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_NUMPY_TYPES: dict[int, np.dtype] = {
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
_LABELS: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}

# Inputs that are fp32 whatever the node computes in: Resize's region and scales.
_ALWAYS_FLOAT = {"Resize": (1, 2)}

# ONNX lets Conv, MaxPool and InstanceNormalization take bfloat16 from opset 22 on.
BF16_OPSET, BF16_IR_VERSION = 22, 10
# ... and QuantizeLinear and DequantizeLinear take fp16 from opset 19 on.
QDQ_OPSET = 19
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


def half_from_float(
    model: onnx.ModelProto,
    precision: Half,
    islands: Collection[str],
    *,
    output: Half | None = None,
    keeps_opset: bool = False,
) -> onnx.ModelProto:
    """Type a graph.

    Args:
        model: fp32, with inferred shapes and a name for every node; Q/DQ around integer layers stays where it is.
        precision: of everything outside the islands.
        islands: names of nodes that stay in fp32.
        output: type of the features; None is fp32, which every reader takes, and in which a head's answer always is.
            Further outputs keep the type that they are made in.
        keeps_opset: bf16 at the opset of the fp32 graph; what has none there must be an island.

    Returns:
        the typed graph, without inferred shapes.

    Raises:
        BuildError: an island that is not there, or a result that ONNX does not allow.
    """
    names = [node.name for node in model.graph.node]
    if len(set(names)) != len(names) or "" in names:
        raise BuildError("nodes of the fp32 graph have no names of their own; export it again")
    if unknown := sorted(set(islands) - set(names)):
        raise BuildError(f"no node is named {', '.join(unknown[:3])}; islands must be nodes of the graph")
    types = {model.graph.output[0].name: ONNX_TYPES[output] if output else TensorProto.FLOAT}
    typed = _Typing(model, precision, frozenset(islands), keeps_opset).run({**types, ANSWER: TensorProto.FLOAT})
    try:
        onnx.checker.check_model(typed, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"the {precision} graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    return typed


class _Typing:
    """One pass over the nodes in order; holds the typed graph as far as it is made."""

    def __init__(self, model: onnx.ModelProto, precision: Half, islands: frozenset[str], keeps_opset: bool) -> None:
        self.model, self.precision, self.islands = model, precision, islands
        self.half = ONNX_TYPES[precision]
        self.is_late = precision == "bf16" and not keeps_opset
        self.floats = {name for name, kind in element_types(model).items() if kind == TensorProto.FLOAT}
        self.initializers = {entry.name: entry for entry in model.graph.initializer}
        self.types: dict[str, int] = {}
        self.renamed: dict[str, str] = {}
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def run(self, wanted: Mapping[str, int]) -> onnx.ModelProto:
        """The typed model; `wanted` are the element types of outputs by name."""
        source = self.model.graph
        outputs_wanted = {entry.name: wanted[entry.name] for entry in source.output if entry.name in wanted}
        for node in source.node:
            self._add(node, outputs_wanted)
        outputs = []
        for entry in source.output:
            shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
            outputs.append(helper.make_tensor_value_info(entry.name, self.types[entry.name], shape))
        graph = helper.make_graph(self.nodes, source.name, source.input, outputs, list(self.constants.values()))
        opset = BF16_OPSET if self.is_late else next(entry.version for entry in self.model.opset_import)
        if any(node.op_type in _QDQ for node in source.node):
            opset = max(opset, QDQ_OPSET)
        result = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=BF16_IR_VERSION if self.is_late else self.model.ir_version,
            producer_name=self.model.producer_name,
        )
        result.metadata_props.extend(self.model.metadata_props)
        return result

    def _add(self, node: NodeProto, outputs: Mapping[str, int]) -> None:
        """A node whose floating inputs and outputs have its type; casts before it where they have another."""
        wanted = TensorProto.FLOAT if node.name in self.islands else self.half
        always_float = _ALWAYS_FLOAT.get(node.op_type, ())
        typed = NodeProto()
        typed.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name in self.floats:
                typed.input[position] = self._as(name, TensorProto.FLOAT if position in always_float else wanted)
            elif name in self.initializers:
                self.constants[name] = self.initializers[name]
        made = [name for name in node.output if name in self.floats]
        if made and node.op_type == "Cast":
            _set_attribute(typed, helper.make_attribute("to", wanted))
        if node.op_type == "GridSample" and self.is_late:
            _set_attribute(typed, helper.make_attribute("mode", "linear"))  # what opset 20 calls bilinear
        self.nodes.append(typed)
        self.types.update(dict.fromkeys(made, wanted))
        for name in made:
            if outputs.get(name, wanted) != wanted:
                inner = f"{name}/{_LABELS[wanted]}"
                typed.output[list(node.output).index(name)] = inner
                self.nodes.append(_cast(inner, name, outputs[name]))
                self.types.update({inner: wanted, name: outputs[name]})
                self.renamed[name] = inner

    def _as(self, name: str, wanted: int) -> str:
        """The name under which a tensor has the wanted type."""
        if name in self.initializers:
            return self._constant(name, wanted)
        if self.types[name] == wanted:
            return name
        source = self.renamed.get(name, name)
        if self.types[source] == wanted:
            return source
        cast = f"{name}/{_LABELS[wanted]}"
        if cast not in self.types:
            self.nodes.append(_cast(source, cast, wanted))
            self.types[cast] = wanted
        return cast

    def _constant(self, name: str, wanted: int) -> str:
        typed = name if wanted == TensorProto.FLOAT else f"{name}/{_LABELS[wanted]}"
        if typed not in self.constants:
            entry = self.initializers[name]
            if wanted != TensorProto.FLOAT:
                with np.errstate(over="ignore"):
                    entry = numpy_helper.from_array(numpy_helper.to_array(entry).astype(_NUMPY_TYPES[wanted]), typed)
            self.constants[typed] = entry
        return typed


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast:{target}", to=kind)


def _set_attribute(node: NodeProto, attribute: onnx.AttributeProto) -> None:
    kept = [entry for entry in node.attribute if entry.name != attribute.name]
    del node.attribute[:]
    node.attribute.extend([*kept, attribute])
