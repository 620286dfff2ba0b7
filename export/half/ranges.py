"""How large the tensors of a graph become on photographs, and how much half precision would lose of them.

The graph measures itself (see `measuring`), with three numbers a tensor, run without optimisations, so that the tensors
measured are those of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.export.graph.measuring import Measurement, Statistics, measuring_graph
from brixel_edge.export.graph.walk import MOVES, PARTS, float_tensors

_FLAT = "range_flat"


@dataclass(frozen=True, kw_only=True)
class TensorRange:
    """Of one tensor over all images.

    Attributes:
        max_abs: largest magnitude.
        fp16_error: ||fp16(x) - x|| / ||x||, the worst image: about 2e-4 where fp16 fits, more where values fall under
            its smallest normal number (6.1e-5), infinite where they pass its largest (65504).
    """

    max_abs: float
    fp16_error: float

    def joined(self, other: TensorRange) -> TensorRange:
        """Both together."""
        return TensorRange(max_abs=max(self.max_abs, other.max_abs), fp16_error=max(self.fp16_error, other.fp16_error))


def range_of_values(values: NDArray[np.floating]) -> TensorRange:
    """Of a constant."""
    single = values.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        lost = np.linalg.norm(single.astype(np.float16).astype(np.float32) - single)
    norm = np.linalg.norm(single)
    largest = float(np.abs(single).max(initial=0.0))
    return TensorRange(max_abs=largest, fp16_error=float(lost / norm) if norm > 0 else 0.0)


def measure_ranges(
    model: onnx.ModelProto,
    images: Iterable[NDArray[np.uint8]],
    *,
    threads: int = 0,
) -> dict[str, TensorRange]:
    """Ranges of all floating tensors, constants included.

    Args:
        model: fp32, with inferred shapes; its input is the uint8 image.
        images: (1, H, W, 3) uint8 each, read once and not kept.
        threads: of ONNX Runtime; 0 takes one per core.

    Returns:
        by tensor name; a tensor that only moves the values of another has that one's range, and one that is taken apart
        later loses at least what its parts lose: beside large queries and keys, small values vanish unseen.
    """
    produced = float_tensors(model)
    initializers = {entry.name: entry for entry in model.graph.initializer}
    ranges = {
        name: range_of_values(numpy_helper.to_array(entry))
        for name, entry in initializers.items()
        if entry.data_type == TensorProto.FLOAT
    }
    aliases = _aliases(model, produced)
    statistics = {name: _reductions(name) for name in produced if name not in aliases}
    flat = numpy_helper.from_array(np.array([-1], np.int64), _FLAT)
    graph = measuring_graph(model, statistics, constants=[flat])
    measurement = Measurement(graph.SerializeToString(), threads=threads, is_optimized=False)
    for image in images:
        seen = measurement.of({model.graph.input[0].name: image})
        for name, entry in statistics.items():
            largest, lost, norm = (seen[part].item() for part in entry.outputs)
            found = TensorRange(max_abs=largest, fp16_error=lost / norm if norm > 0 else 0.0)
            ranges[name] = found.joined(ranges[name]) if name in ranges else found
    ranges |= {name: ranges[source] for name, source in aliases.items() if source in ranges}
    lost = _lost_in_parts(model, ranges)
    return {name: replace(seen, fp16_error=max(seen.fp16_error, lost.get(name, 0.0))) for name, seen in ranges.items()}


def _aliases(model: onnx.ModelProto, produced: Mapping[str, object]) -> dict[str, str]:
    """Outputs of nodes that move values, with where the values come from."""
    aliases: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in MOVES and node.input[0] in produced:
            source = aliases.get(node.input[0], node.input[0])
            aliases.update({name: source for name in node.output if name})
    return aliases


def _lost_in_parts(model: onnx.ModelProto, ranges: Mapping[str, TensorRange]) -> dict[str, float]:
    """What fp16 loses of the worst part of a tensor, back to the product that makes it, through moves and its bias."""
    constants = {entry.name for entry in model.graph.initializer}
    lost: dict[str, float] = {}
    for node in reversed(model.graph.node):
        worst = max((lost.get(name, 0.0) for name in node.output), default=0.0)
        if node.op_type in PARTS:
            worst = max(worst, *(ranges[name].fp16_error for name in node.output if name in ranges), 0.0)
        elif node.op_type not in MOVES and not (node.op_type == "Add" and constants & set(node.input)):
            continue
        for name in node.input:
            if worst > 0 and name in ranges and name not in constants:
                lost[name] = max(lost.get(name, 0.0), worst)
    return lost


def _reductions(name: str) -> Statistics:
    """Max |x|, ||fp16(x) - x||, ||x||."""

    def node(operator: str, inputs: list[str], part: str, attribute: tuple[str, int] | None = None) -> onnx.NodeProto:
        made = helper.make_node(operator, inputs, [f"{name}/{part}"], name=f"{name}/{part}")
        made.attribute.extend([helper.make_attribute(*attribute)] if attribute else [])
        return made

    nodes = [
        node("Reshape", [name, _FLAT], "flat"),
        node("Abs", [f"{name}/flat"], "abs"),
        node("ReduceMax", [f"{name}/abs"], "max", ("keepdims", 0)),
        node("Cast", [f"{name}/flat"], "half", ("to", TensorProto.FLOAT16)),
        node("Cast", [f"{name}/half"], "back", ("to", TensorProto.FLOAT)),
        node("Sub", [f"{name}/back", f"{name}/flat"], "difference"),
        node("ReduceL2", [f"{name}/difference"], "lost", ("keepdims", 0)),
        node("ReduceL2", [f"{name}/flat"], "norm", ("keepdims", 0)),
    ]
    return Statistics(nodes=nodes, outputs=[f"{name}/{part}" for part in ("max", "lost", "norm")])
