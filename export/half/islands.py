"""Which nodes of a half-precision graph stay in fp32, and why.

Two kinds of reasons. Meaning: what half precision cannot express whatever the weights are, namely pixels, sampling
coordinates, interpolation, group statistics. Ranges: what the calibration photographs showed of these weights. Names
of operators alone decide nothing about ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from brixel_edge.export.graph.walk import consumers, element_types, producers
from brixel_edge.export.half.ranges import TensorRange
from brixel_edge.model.receipt_sections import IslandLevel
from brixel_edge.model.spec import Half

FP16_MAX = 65504.0
# Photographs of the calibration do not show everything, so a tensor counts as too large long before it overflows.
# The wide level is the next plan of the exporter, when the measured one did not pass the gate.
MARGIN: dict[IslandLevel, float] = {"measured": 4.0, "wide": 64.0}
# Rounding to fp16 costs about 2.1e-4 of a tensor's norm; ten times that means that most of it lies under 6e-5.
UNDERFLOW_ERROR: dict[IslandLevel, float] = {"measured": 2e-3, "wide": 5e-4}
# A softmax adds up to one term a key; sums in fp16 end at 65504 (autoware-ml #95: 65k keys).
MAX_KEYS = 16384

_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
# What leaves it are no pixels any more; and a Cast between it and its product would keep an engine from fusing them.
_ENDS_OF_PIXELS = _PRODUCTS | {"DequantizeLinear"}
_INTERPOLATION = frozenset({"Mul", "Add"})


@dataclass(frozen=True, kw_only=True)
class Island:
    """A node that stays in fp32.

    Attributes:
        node: its name.
        op: its operator.
        reason: why.
        max_abs: largest magnitude that it was seen to read or write.
        fp16_error: largest share that fp16 would lose of what it reads or writes.
    """

    node: str
    op: str
    reason: str
    max_abs: float
    fp16_error: float


def find_islands(
    model: onnx.ModelProto,
    ranges: Mapping[str, TensorRange],
    precision: Half,
    level: IslandLevel = "measured",
    *,
    keeps_opset: bool = False,
) -> list[Island]:
    """All islands, in the graph's order; a node has the first reason that applies.

    Args:
        model: fp32, with inferred shapes and a name for every node.
        ranges: of all its tensors.
        precision: bf16 has fp32's range, so that measured ranges matter to fp16 alone.
        level: how cautious to be.
        keeps_opset: operators that have no bf16 at the graph's own opset stay in fp32, instead of a later opset that
            has it.
    """
    found: dict[str, Island] = {}

    def add(nodes: Iterable[onnx.NodeProto], reason: str) -> None:
        for node in nodes:
            if node.name not in found:
                largest, lost = _seen(node, ranges)
                found[node.name] = Island(
                    node=node.name, op=node.op_type, reason=reason, max_abs=largest, fp16_error=lost
                )

    add(_pixels(model), "pixels: 0 to 255, mean and std")
    add(_coordinates(model), "sampling coordinates: half precision cannot tell neighbouring places apart")
    add(_interpolation(model), "bilinear sampling")
    add((node for node in model.graph.node if node.op_type == "InstanceNormalization"), "statistics of GroupNorm")
    add((node for node in model.graph.node if node.op_type == "ReduceL2"), "lengths of features: sums of squares")
    if precision == "bf16" and keeps_opset:
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        add(
            (node for node in model.graph.node if not _has_bf16(node.op_type, opset)),
            f"opset {opset} has no bf16 for it",
        )
    add(_long_softmaxes(model), f"softmax over more than {MAX_KEYS} keys")
    if level == "wide":
        add(_attention_scores(model), "wide: QK^T and softmax")
        add(_residual_sums(model), "wide: sum of two activations, the residual stream")
    if precision == "fp16":
        add((node for node in model.graph.node if _seen(node, ranges)[0] > FP16_MAX / MARGIN[level]), _too_large(level))
        add((node for node in model.graph.node if _seen(node, ranges)[1] > UNDERFLOW_ERROR[level]), _too_small(level))
    order = {node.name: position for position, node in enumerate(model.graph.node)}
    return sorted(found.values(), key=lambda island: order[island.node])


def _has_bf16(operator: str, opset: int) -> bool:
    """Whether an operator takes bfloat16 at an opset, or has nothing to do with floats."""
    constraints = onnx.defs.get_schema(operator, opset).type_constraints
    kinds = [set(entry.allowed_type_strs) for entry in constraints if "tensor(float)" in entry.allowed_type_strs]
    return all("tensor(bfloat16)" in allowed for allowed in kinds)


def _seen(node: onnx.NodeProto, ranges: Mapping[str, TensorRange]) -> tuple[float, float]:
    """Largest magnitude that a node reads or writes, and the largest share that fp16 loses of it."""
    seen = [ranges[name] for name in (*node.input, *node.output) if name in ranges]
    return max((entry.max_abs for entry in seen), default=0.0), max((entry.fp16_error for entry in seen), default=0.0)


def _too_large(level: IslandLevel) -> str:
    return f"range: magnitudes over {FP16_MAX / MARGIN[level]:.0f}, 1/{MARGIN[level]:.0f} of what overflows fp16"


def _too_small(level: IslandLevel) -> str:
    return f"range: fp16 loses over {UNDERFLOW_ERROR[level]:.0e} of a tensor, to values under its smallest normal one"


def _pixels(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Everything before the first products: the fused pre-processing."""
    readers = consumers(model)
    reached: dict[str, onnx.NodeProto] = {}
    waiting = [entry.name for entry in model.graph.input]
    while waiting:
        for node in readers[waiting.pop()]:
            if node.op_type not in _ENDS_OF_PIXELS and node.name not in reached:
                reached[node.name] = node
                waiting += node.output
    return list(reached.values())


def _coordinates(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """From the linear that predicts offsets to the grid that GridSample reads, or to indices and weights of gathers."""
    makers, readers, types = producers(model), consumers(model), element_types(model)
    starts = [node.input[1] for node in model.graph.node if node.op_type in ("GridSample", "GatherElements")]
    for node in _gathers(model):
        for product in readers[node.output[0]]:
            starts += [name for name in product.input if name != node.output[0]]
    reached: dict[str, onnx.NodeProto] = {}
    while starts:
        node = makers.get(starts.pop())
        if node is None or node.name in reached:
            continue
        reached[node.name] = node
        if node.op_type not in _PRODUCTS:
            starts += [name for name in node.input if name]
    return [
        node
        for node in reached.values()
        if TensorProto.FLOAT in {types.get(name) for name in (*node.input, *node.output)}
    ]


def _gathers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "GatherElements"]


def _interpolation(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """GridSample itself, or the weighted sum of the four gathered neighbours."""
    readers = consumers(model)
    reached = {node.name: node for node in model.graph.node if node.op_type == "GridSample"}
    waiting = [node.output[0] for node in _gathers(model)]
    while waiting:
        for node in readers[waiting.pop()]:
            if node.op_type in _INTERPOLATION and node.name not in reached:
                reached[node.name] = node
                waiting += node.output
    return list(reached.values())


def _long_softmaxes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    sizes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    return [
        node
        for node in model.graph.node
        if node.op_type == "Softmax" and node.input[0] in sizes and sizes[node.input[0]][-1].dim_value > MAX_KEYS
    ]


def _residual_sums(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    constants = {entry.name for entry in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "Add" and not constants & set(node.input)]


def _attention_scores(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Softmaxes of two activations' product, and that product."""
    makers = producers(model)
    constants = {entry.name for entry in model.graph.initializer}
    reached = []
    for softmax in model.graph.node:
        scores = makers.get(softmax.input[0]) if softmax.op_type == "Softmax" else None
        if scores is not None and scores.op_type == "MatMul" and not constants & set(scores.input):
            reached += [scores, softmax]
    return reached
