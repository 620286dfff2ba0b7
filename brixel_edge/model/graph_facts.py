"""What an ONNX file is made of, as far as an engine builder must know: operators, tensor types, float islands.

Reads the file's protobuf directly, so that a board can build an engine without the onnx package (and without its
memory). Weights are skipped over, not read. Assumes what ONNX demands of nearly every operator: that its floating
inputs and outputs share one type; the exceptions are named below.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from brixel_edge.errors import BundleError
from brixel_edge.model.protobuf import fields, integer, messages, text
from brixel_edge.model.spec import Precision

Facts = TypeVar("Facts")

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE = 1, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_FLOATS = 1, 2, 3, 5, 7
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 2, 1, 1, 2, 1, 1

# TensorProto.DataType.
_TYPE_NAMES = {
    1: "fp32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "fp16", 11: "fp64", 16: "bf16",
}  # fmt: skip
HALF_TYPES: tuple[Precision, ...] = ("fp16", "bf16")

_TO_BOOL = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor", "IsNaN", "IsInf"}
_TO_INT64 = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero"}
# They hand numbers on or change their type; they do not compute in it.
_NO_ARITHMETIC = {"Cast", "Constant", "ConstantOfShape", "QuantizeLinear", "DequantizeLinear", "Identity"}
_BETWEEN_SCORES_AND_SOFTMAX = {"Softmax", "Add", "Cast", "Div", "Mul", "Reshape", "Where"}


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """A graph's input or output."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """A node; `dtype` is the type of its first output, `output` that one's name."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    output: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What the builder asks of a graph before it compiles it.

    Attributes:
        opset: of the default domain.
        nodes: in the file's order.
        inputs: of the graph.
        outputs: of the graph.
    """

    opset: int
    nodes: tuple[NodeFacts, ...]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]

    @cached_property
    def op_counts(self) -> dict[str, int]:
        """Nodes by operator."""
        return dict(Counter(node.operator for node in self.nodes))

    @cached_property
    def arithmetic_types(self) -> dict[str, int]:
        """Nodes that compute, by the type they compute in; casts and quantisers do not count."""
        return dict(Counter(node.dtype for node in self.nodes if node.operator not in _NO_ARITHMETIC))

    @cached_property
    def operator_types(self) -> dict[str, dict[str, int]]:
        """What each operator computes in: operator -> type of its first output -> nodes."""
        counts: dict[str, Counter[str]] = {}
        for node in self.nodes:
            counts.setdefault(node.operator, Counter())[node.dtype] += 1
        return {operator: dict(sorted(kinds.items())) for operator, kinds in sorted(counts.items())}

    @cached_property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that this graph may be called by; two only if it computes in fp16 and in bf16."""
        if self.op_counts.get("QuantizeLinear", 0) + self.op_counts.get("DequantizeLinear", 0):
            return ("int8",)
        halves: tuple[Precision, ...] = tuple(kind for kind in HALF_TYPES if self.arithmetic_types.get(kind))
        return halves or ("fp32",)

    @cached_property
    def float_islands(self) -> frozenset[str]:
        """Names of nodes that compute in fp32 though others compute in half precision, and of their outputs."""
        if not any(self.arithmetic_types.get(kind) for kind in HALF_TYPES):
            return frozenset()
        islands = [node for node in self.nodes if node.dtype == "fp32" and node.operator not in _NO_ARITHMETIC]
        return frozenset({name for node in islands for name in (node.name, node.output)} - {""})

    @cached_property
    def attention_scores(self) -> frozenset[str]:
        """Names of the products that a softmax reads (QK^T), and of their outputs."""
        by_output = {node.output: node for node in self.nodes}
        found: set[str] = set()
        for softmax in self.nodes:
            node = softmax if softmax.operator == "Softmax" else None
            while node is not None and node.operator in _BETWEEN_SCORES_AND_SOFTMAX:
                node = next((by_output[name] for name in node.inputs if name in by_output), None)
            if node is not None and node.operator in ("MatMul", "Gemm", "Einsum"):
                found |= {node.name, node.output}
        return frozenset(found - {""})


def _name(data: memoryview, number: int) -> str:
    return next((text(value) for field, value in fields(data) if field == number), "")


def _tensor_facts(data: memoryview) -> TensorFacts:
    """A ValueInfoProto; a symbolic dimension is -1."""
    dtype, shape = "unknown", ()
    for type_proto in messages(data, _VALUE_TYPE):
        for tensor in messages(type_proto, _TYPE_TENSOR):
            dtype = _TYPE_NAMES.get(integer(tensor, _TENSOR_ELEMENT), "unknown")
            dims = [dim for dims in messages(tensor, _TENSOR_SHAPE) for dim in messages(dims, _SHAPE_DIM)]
            shape = tuple(integer(dim, _DIM_VALUE) or -1 for dim in dims)
    return TensorFacts(name=_name(data, _VALUE_NAME), dtype=dtype, shape=shape)


def _attribute_type(data: memoryview) -> str | None:
    """The type that an attribute decides: a Cast's `to`, or that of a constant tensor or number."""
    name = _name(data, _ATTRIBUTE_NAME)
    for field, value in fields(data):
        if field == _ATTRIBUTE_TENSOR and isinstance(value, memoryview):
            return _TYPE_NAMES.get(integer(value, _TENSOR_TYPE), "unknown")
        if field == _ATTRIBUTE_INT and name == "to" and isinstance(value, int):
            return _TYPE_NAMES.get(value, "unknown")
        if name.startswith("value_"):
            return "fp32" if name in ("value_float", "value_floats") else "int64"
    return None


@dataclass(frozen=True, kw_only=True)
class _Node:
    name: str
    operator: str
    inputs: list[str]
    outputs: list[str]
    attribute_type: str | None


def _node(data: memoryview) -> _Node:
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_NAME: [], _NODE_OP: []}
    attribute_type = None
    for field, value in fields(data):
        if field in texts:
            texts[field].append(text(value))
        elif field == _NODE_ATTRIBUTE and isinstance(value, memoryview):
            attribute_type = _attribute_type(value) or attribute_type
    return _Node(
        name="".join(texts[_NODE_NAME]),
        operator="".join(texts[_NODE_OP]),
        inputs=texts[_NODE_INPUT],
        outputs=texts[_NODE_OUTPUT],
        attribute_type=attribute_type,
    )


def _output_type(node: _Node, types: dict[str, str]) -> str:
    """Type of a node's first output, from its inputs."""
    if node.attribute_type is not None:
        return node.attribute_type
    if node.operator in _TO_BOOL:
        return "bool"
    if node.operator in _TO_INT64:
        return "int64"
    inputs = [types.get(name, "unknown") for name in node.inputs if name]
    if node.operator == "QuantizeLinear":
        return inputs[2] if len(inputs) > 2 else "uint8"
    if node.operator == "DequantizeLinear":
        return inputs[1] if len(inputs) > 1 else "fp32"
    if node.operator == "MatMulIntegerToFloat":  # ONNX Runtime's: integers and their scales in, numbers out
        return inputs[2]
    if node.operator == "ConstantOfShape":
        return "fp32"
    if node.operator == "Where":
        inputs = inputs[1:]
    return inputs[0] if inputs else "unknown"


def _facts(model: memoryview) -> GraphFacts:
    opset, types = 0, {}
    nodes: list[_Node] = []
    facts: list[NodeFacts] = []
    inputs, outputs = [], []
    for entry in messages(model, _MODEL_OPSET):
        if not _name(entry, _OPSET_DOMAIN):
            opset = integer(entry, _OPSET_VERSION)
    graph = next(messages(model, _MODEL_GRAPH))
    for field, value in fields(graph):
        if not isinstance(value, memoryview):
            continue
        if field == _GRAPH_NODE:
            nodes.append(_node(value))
        elif field == _GRAPH_INITIALIZER:
            types[_name(value, _TENSOR_NAME)] = _TYPE_NAMES.get(integer(value, _TENSOR_TYPE), "unknown")
        elif field in (_GRAPH_INPUT, _GRAPH_OUTPUT):
            (inputs if field == _GRAPH_INPUT else outputs).append(_tensor_facts(value))
    types.update({tensor.name: tensor.dtype for tensor in inputs})
    for node in nodes:
        kind = _output_type(node, types)
        types.update(dict.fromkeys(node.outputs, kind))
        output = next(iter(node.outputs), "")
        facts.append(
            NodeFacts(name=node.name, operator=node.operator, inputs=tuple(node.inputs), output=output, dtype=kind)
        )
    return GraphFacts(opset=opset, nodes=tuple(facts), inputs=tuple(inputs), outputs=tuple(outputs))


def graph_facts(path: Path) -> GraphFacts:
    """Read an ONNX file's operators and types.

    Raises:
        BundleError: the file is missing, or is no ONNX model.
    """
    return _read(path, _facts)


def _read(path: Path, read: Callable[[memoryview], Facts]) -> Facts:
    if not path.is_file() or not path.stat().st_size:
        raise BundleError(f"{path} is not an ONNX graph; make one with brixel-export")
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)  # closes with the last view of it
    try:
        return read(memoryview(mapped))
    except (IndexError, StopIteration, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not an ONNX model, or is cut short; export it again") from error


def graph_ends(path: Path) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
    """Inputs and outputs of an ONNX file, without a look at its nodes.

    Raises:
        BundleError: the file is missing, or is no ONNX model.
    """
    return _read(path, _ends)


def _ends(model: memoryview) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
    graph = next(messages(model, _MODEL_GRAPH))
    inputs = tuple(_tensor_facts(value) for value in messages(graph, _GRAPH_INPUT))
    return inputs, tuple(_tensor_facts(value) for value in messages(graph, _GRAPH_OUTPUT))
