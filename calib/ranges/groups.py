"""Which linears read one tensor, and where a division of that tensor folds into the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import Layer
from brixel_edge.calib.ranges.tracing import trace_gate, trace_values

# What a Mul may follow: activations, and a LayerNorm that others read as well, so that nothing folds into it.
_BEFORE_MUL = {"Gelu", "FastGelu", "QuickGelu", "Mul", "Relu", "Silu", "LayerNormalization"}

GroupKind = Literal["layer norm", "values", "up branch", "mul"]

_TRACED: dict[GroupKind, Callable[[Graph, str, Sequence[Layer]], tuple[Layer, NDArray[np.int64]] | None]] = {
    "values": trace_values,
    "up branch": trace_gate,
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Linears that read one tensor, and where the division can go.

    Attributes:
        x: the tensor, as the first of them reads it.
        kind: the folding site.
        consumers: the linears; some may read a reshaped view of the tensor.
        maker: for `layer norm` the node; for `values` and `up branch` the linear that makes the channels; "" for `mul`.
        columns: output channel of the maker behind each channel of `x`, for `values` and `up branch`.
    """

    x: str
    kind: GroupKind
    consumers: tuple[Layer, ...]
    maker: str = ""
    columns: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def inputs(self) -> frozenset[str]:
        """All tensors that the linears read: `x` and its reshaped views."""
        return frozenset(layer.x for layer in self.consumers)


def find_groups(graph: Graph, layers: Sequence[Layer]) -> tuple[Group, ...]:
    """The groups of a graph, in running order; linears outside any group are quantised as they are."""
    linears = {layer.name: layer for layer in layers if layer.is_linear}
    groups: list[Group] = []
    for x in dict.fromkeys(layer.x for layer in linears.values() if not layer.excluded):
        grouped = {name for group in groups for name in group.inputs}
        root = _before_reshape(graph, x)
        if x not in grouped and root in graph.producer and root not in graph.outputs:
            group = _group(graph, x, root, linears, layers)
            groups += [group] if group else []
    return tuple(groups)


def _before_reshape(graph: Graph, x: str) -> str:
    """The tensor behind reshapes that leave the channels alone: exporters flatten the rows for Gemm."""
    node = graph.producer.get(x)
    while node is not None and node.op_type == "Reshape" and _keeps_channels(graph, node):
        x = node.input[0]
        node = graph.producer.get(x)
    return x


def _keeps_channels(graph: Graph, reshape: onnx.NodeProto) -> bool:
    before, after = (graph.shapes.get(name, (0,)) for name in (reshape.input[0], reshape.output[0]))
    return before[-1] == after[-1] > 0


def _readers(graph: Graph, name: str) -> list[onnx.NodeProto]:
    """Nodes that read a tensor, or a view of it with the same channels."""
    found = []
    for node in graph.consumers[name]:
        is_view = node.op_type == "Reshape" and _keeps_channels(graph, node) and node.output[0] not in graph.outputs
        found += _readers(graph, node.output[0]) if is_view else [node]
    return found


def _group(graph: Graph, x: str, root: str, linears: Mapping[str, Layer], layers: Sequence[Layer]) -> Group | None:
    node, readers = graph.producer[root], _readers(graph, root)
    if all(reader.name in linears and linears[reader.name].x == reader.input[0] for reader in readers):
        consumers = tuple(linears[reader.name] for reader in readers)
        if node.op_type == "LayerNormalization" and node.input[1] in graph.constants:
            return Group(x=x, kind="layer norm", consumers=consumers, maker=node.name)
        for kind, trace in _TRACED.items():
            found = trace(graph, x, layers)
            if found is not None:
                return Group(x=x, kind=kind, consumers=consumers, maker=found[0].name, columns=found[1])
    if node.op_type not in _BEFORE_MUL:
        return None
    return Group(x=x, kind="mul", consumers=tuple(layer for layer in linears.values() if layer.x == x))
