"""Which weight column stands behind which channel, followed through reshapes, transposes and slices.

Exporters lay out attention heads in many ways. Instead of matching patterns, the layout operators between two places
are run on a tensor of channel numbers, and the numbers that arrive say which channel went where.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import Layer

_LAYOUT = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice", "Split", "Gather"}
Columns = NDArray[np.int64]


def trace_values(graph: Graph, x: str, layers: Sequence[Layer]) -> tuple[Layer, Columns] | None:
    """The linear whose outputs are the V of the attention that makes `x`, and V's column for every channel of `x`."""
    forward, node = _back_through_layout(graph, x)
    if node is None or node.op_type != "MatMul" or any(name in graph.constants for name in node.input):
        return None
    weights, values = node.input
    _, softmax = _back_through_layout(graph, weights)
    if softmax is None or softmax.op_type != "Softmax":
        return None
    maker = _columns(graph, values, layers)
    mixed = node.output[0]
    if maker is None or mixed not in graph.shapes:
        return None
    layer, columns = maker  # (..., channels of a head), one number per row
    shape = graph.shapes[mixed]
    numbers = np.arange(shape[-1]) + shape[-1] * np.arange(int(np.prod(shape[:-2]))).reshape(*shape[:-2], 1, 1)
    arrived = _run_layout(graph, forward, mixed, np.broadcast_to(numbers, shape), x)
    order = _constant_rows(arrived)
    flat = columns.reshape(-1)
    if order is None or flat.size != order.size or len(np.unique(flat[order])) != flat.size:
        return None
    return layer, flat[order]


def trace_gate(graph: Graph, x: str, layers: Sequence[Layer]) -> tuple[Layer, Columns] | None:
    """The linear behind the plain factor of `x` = activation(gate) * up, and its column for every channel of `x`."""
    node = graph.producer.get(x)
    if node is None or node.op_type != "Mul" or any(name in graph.constants for name in node.input):
        return None
    for name, other in (tuple(node.input), tuple(reversed(node.input))):
        found = _columns(graph, name, layers)
        gate = graph.producer.get(other)
        if found is not None and gate is not None and _columns(graph, other, layers) is None:
            columns = _constant_rows(found[1])
            if columns is not None and len(np.unique(columns)) == columns.size:
                return found[0], columns
    return None


def _back_through_layout(graph: Graph, name: str) -> tuple[list[onnx.NodeProto], onnx.NodeProto | None]:
    """Layout nodes that lead to a tensor, in running order, and the node that feeds the first of them."""
    path: list[onnx.NodeProto] = []
    node = graph.producer.get(name)
    while node is not None and node.op_type in _LAYOUT:
        path.insert(0, node)
        node = graph.producer.get(node.input[0])
    return path, node


def _columns(graph: Graph, name: str, layers: Sequence[Layer]) -> tuple[Layer, Columns] | None:
    """The linear whose output is `name` but for layout, and the column in every place, without the row axis."""
    path, _ = _back_through_layout(graph, name)
    start = path[0].input[0] if path else name
    layer = next((layer for layer in layers if layer.output == start and layer.is_linear), None)
    if layer is None or start not in graph.shapes or _leaks(graph, path, start, name):
        return None
    shape = graph.shapes[start]
    arrived = _run_layout(graph, path, start, np.broadcast_to(np.arange(shape[-1]), shape), name)
    if arrived.ndim < 2 or (arrived != arrived[..., :1, :]).any():
        return None
    return layer, arrived[..., 0, :]


def _leaks(graph: Graph, path: Sequence[onnx.NodeProto], start: str, name: str) -> bool:
    """Whether the channels also go somewhere else after they were told apart, or are an output."""
    last = (
        [name]
        if not path
        else [name, *(node.input[0] for node in path if node.op_type not in ("Slice", "Split", "Gather"))]
    )
    divided = any(node.op_type in ("Slice", "Split", "Gather") for node in path)
    single = last[:1] if divided else [start, *last]
    return any(len(graph.consumers[tensor]) != 1 or tensor in graph.outputs for tensor in single)


def _constant_rows(values: NDArray[np.int64]) -> Columns | None:
    """The last axis, if all rows agree."""
    rows = values.reshape(-1, values.shape[-1])
    return rows[0] if (rows == rows[0]).all() else None


def _run_layout(
    graph: Graph, path: Sequence[onnx.NodeProto], start: str, value: NDArray, end: str
) -> NDArray[np.int64]:
    if not path:
        return np.asarray(value)
    names = {name for node in path for name in node.input}
    constants = [graph.constants[name] for name in names if name in graph.constants]
    body = helper.make_graph(
        list(path), "layout", [helper.make_tensor_value_info(start, onnx.TensorProto.INT64, value.shape)],
        [helper.make_tensor_value_info(end, onnx.TensorProto.INT64, None)], constants,
    )  # fmt: skip
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", graph.opset)])
    (arrived,) = list(ReferenceEvaluator(model).run(None, {start: np.ascontiguousarray(value, np.int64)}))
    return np.asarray(arrived)
