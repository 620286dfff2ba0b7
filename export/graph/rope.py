"""Rotary positions over all tokens at once: one rotation for prefix and patches, its signs inside the table.

timm rotates the patch tokens only: it cuts off the class token and registers, negates half of the rest, rotates, and
joins the two again. A rotation by no angle is exact, so prefix rows can pass through it with cosine 1 and sine 0, and
the minus sign can stand in the table of sines. That leaves five operators of nine, and none that copies a slice: an
INT8 ViT-S at 256 px on two cores gains 1 ms (of 46 in OpenVINO).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from brixel_edge.export.half.graph_walk import consumers, producers


@dataclass(frozen=True, kw_only=True)
class _Rotation:
    """One rotation as torch exports it: Concat(prefix, patches * cos + Concat(-second, first) * sin).

    Attributes:
        x: (..., N, d), all tokens.
        out: what the Concat that ends it makes.
        cos: constant, (n, d) of the patches.
        sin: constant, (n, d).
        prefix: tokens in front of the patches.
    """

    x: str
    out: str
    cos: str
    sin: str
    prefix: int


def whole_rope(model: onnx.ModelProto) -> int:
    """Rewrite every rotation of patch tokens as one of all tokens; the values stay bit by bit.

    Args:
        model: at opset 18, where Split takes its sizes as an input.

    Returns:
        how many were rewritten.
    """
    graph, walk = model.graph, _Walk(model)
    tables: dict[tuple[str, str, int], tuple[str, str]] = {}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        rotation = walk.rotation(node)
        if rotation is None:
            nodes.append(node)
            continue
        key = (rotation.cos, rotation.sin, rotation.prefix)
        if key not in tables:
            tables[key] = _add_tables(graph, walk, rotation, len(tables))
        nodes += _rotate(rotation, *tables[key])
        count += 1
    if count:
        _replace(graph, nodes)
    return count


def _add_tables(graph: onnx.GraphProto, walk: _Walk, rotation: _Rotation, count: int) -> tuple[str, str]:
    """Names of new constants (N, d): cosines with ones, and signed sines with zeros, for the prefix."""
    cos, sin = walk.constant(rotation.cos), walk.constant(rotation.sin)
    assert cos is not None and sin is not None
    signs = np.where(np.arange(sin.shape[1]) < sin.shape[1] // 2, -1, 1).astype(sin.dtype)
    head = np.zeros((rotation.prefix, cos.shape[1]), cos.dtype)
    tables = {
        f"rope.{count}.cos": np.concatenate([head + 1, cos]),
        f"rope.{count}.sin": np.concatenate([head, sin * signs]),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tables.items())
    cosines, sines = tables
    return cosines, sines


def _rotate(rotation: _Rotation, cos: str, sin: str) -> list[onnx.NodeProto]:
    out = rotation.out
    parts = [f"{out}.first", f"{out}.second"]
    return [
        helper.make_node("Split", [rotation.x], parts, name=f"{out}.split", axis=-1, num_outputs=2),
        helper.make_node("Concat", parts[::-1], [f"{out}.swapped"], name=f"{out}.swap", axis=-1),
        helper.make_node("Mul", [f"{out}.swapped", sin], [f"{out}.across"], name=f"{out}.times_sin"),
        helper.make_node("Mul", [rotation.x, cos], [f"{out}.along"], name=f"{out}.times_cos"),
        helper.make_node("Add", [f"{out}.along", f"{out}.across"], [out], name=f"{out}.rotate"),
    ]


class _Walk:
    """Finds rotations from their end."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.makers, self.readers = producers(model), consumers(model)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def constant(self, name: str) -> NDArray | None:
        """Value of a constant, or None."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def rotation(self, joined: onnx.NodeProto) -> _Rotation | None:
        """The rotation that a node ends, if it does."""
        if joined.op_type != "Concat" or len(joined.input) != 2:
            return None
        head, added = (self.makers.get(name) for name in joined.input)
        cut = self._cut(head)
        if cut is None or cut[1] != 0 or not self._is_alone(added, "Add"):
            return None
        for along, across in (added.input, added.input[::-1]):  # type: ignore[union-attr]
            plain, swapped = self._scaled(along), self._scaled(across)
            if plain is None or swapped is None:
                continue
            rest = self._cut(self.makers.get(plain[0]))
            if rest is not None and rest[:2] == (cut[0], cut[2]) and self._is_turned(swapped[0], plain[0]):
                return _Rotation(x=cut[0], out=joined.output[0], cos=plain[1], sin=swapped[1], prefix=cut[2])
        return None

    def _is_alone(self, node: onnx.NodeProto | None, op: str) -> bool:
        return node is not None and node.op_type == op and len(self.readers.get(node.output[0], ())) == 1

    def _scaled(self, name: str) -> tuple[str, str] | None:
        """(tensor, constant matrix) of a product that nobody else reads."""
        node = self.makers.get(name)
        if not self._is_alone(node, "Mul"):
            return None
        for x, factor in (node.input, node.input[::-1]):  # type: ignore[union-attr]
            if factor in self.constants and len(self.constants[factor].dims) == 2:
                return x, factor
        return None

    def _cut(self, node: onnx.NodeProto | None) -> tuple[str, int, int] | None:
        """(tensor, first, last) of a slice of the second last of four axes."""
        if node is None or node.op_type != "Slice" or len(node.input) < 4:
            return None
        values = [self.constant(name) for name in node.input[1:]]
        if any(value is None or value.size != 1 for value in values):
            return None
        first, last, axis, *step = (int(value.item()) for value in values)  # type: ignore[union-attr]
        return (node.input[0], first, last) if axis in (2, -2) and step in ([], [1]) else None

    def _is_turned(self, name: str, x: str) -> bool:
        """Whether a tensor is Concat(-second, first) of the halves of `x`."""
        node = self.makers.get(name)
        if node is None or node.op_type != "Concat" or len(node.input) != 2:
            return False
        negated, first = self.makers.get(node.input[0]), node.input[1]
        halves = self.makers.get(first)
        if negated is None or negated.op_type != "Neg" or halves is None or halves.op_type != "Split":
            return False
        return list(halves.output) == [first, negated.input[0]] and halves.input[0] == x


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Make `nodes` the graph's, less those, and less the constants, that nothing reads any more."""
    read, live = {value.name for value in graph.output}, []
    for node in reversed(nodes):
        if read.intersection(node.output):
            live.append(node.SerializeToString())
            read.update(node.input)
    constants = [tensor.SerializeToString() for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(onnx.NodeProto.FromString(node) for node in reversed(live))
    graph.initializer.extend(onnx.TensorProto.FromString(tensor) for tensor in constants)
