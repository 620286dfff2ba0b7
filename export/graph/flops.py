"""Floating-point operations of a graph: 2 for each multiply-add of its products, as `network.flops` counts a network.

An engine in another precision does the same products as the fp32 graph that it was made from, so that graph is counted.
"""

from __future__ import annotations

import math
from pathlib import Path

import onnx

from brixel_edge.export.graph.walk import static_shapes
from brixel_edge.model.bundle import graph_name

_PRODUCTS = ("Conv", "ConvInteger", "MatMul", "MatMulInteger", "Gemm")


def gflop_of_engine(path: Path) -> float | None:
    """GFLOP of one picture of a graph or a plan.

    Args:
        path: of the graph or the plan; the fp32 graph beside it is counted where there is one.

    Returns:
        None for a plan alone, and for a graph whose shapes cannot be inferred.
    """
    source = path.with_name(graph_name("fp32"))
    chosen = source if source.is_file() else path
    return gflop_of_graph(onnx.load(str(chosen))) if chosen.suffix == ".onnx" else None


def gflop_of_graph(model: onnx.ModelProto) -> float | None:
    """GFLOP of one picture; None where a product's shape is not known."""
    if any(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        return None  # fused operators hide their products
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = static_shapes(inferred) | {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
    total = 0
    for node in inferred.graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        left, right, made = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
        if left is None or right is None or made is None:
            return None
        total += _multiplications(node, left, right, made)
    return 2 * total / 1e9


def _multiplications(node: onnx.NodeProto, left: tuple[int, ...], right: tuple[int, ...], made: tuple[int, ...]) -> int:
    """Multiply-adds of a product: as many for each number that it makes as it sums over."""
    if node.op_type.startswith("Conv"):
        return math.prod(made) * math.prod(right[1:])
    is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(made) * left[-2 if is_transposed else -1]
