"""How large the tensors of a graph become on photographs, and how much half precision would lose of them.

The graph measures itself: every floating tensor gets a few reductions whose scalar results are the only outputs, so
that memory does not grow with the number of images or of tensors. Run by ONNX Runtime with its optimisations off, so
that the tensors measured are those of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.export.half.graph_walk import MOVES, float_tensors
from brixel_edge.machine.ort_session import open_session

_STATISTICS = "range_statistics"


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
        by tensor name; a tensor that only moves the values of another has that one's range.
    """
    produced = float_tensors(model)
    initializers = {entry.name: entry for entry in model.graph.initializer}
    ranges = {
        name: range_of_values(numpy_helper.to_array(entry))
        for name, entry in initializers.items()
        if entry.data_type == TensorProto.FLOAT
    }
    aliases = _aliases(model, produced)
    measured = [name for name in produced if name not in aliases]
    session = open_session(
        _measuring(model, measured).SerializeToString(),
        threads=threads,
        in_file_order=True,
        is_optimized=False,
        has_arena=False,
    )
    for image in images:
        rows: NDArray[np.float32] = session.run([_STATISTICS], {model.graph.input[0].name: image})[0]
        for name, (largest, lost, norm) in zip(measured, rows.reshape(-1, 3).tolist(), strict=True):
            error = lost / norm if norm > 0 else 0.0
            seen = TensorRange(max_abs=largest, fp16_error=error)
            ranges[name] = seen.joined(ranges[name]) if name in ranges else seen
    return ranges | {name: ranges[source] for name, source in aliases.items() if source in ranges}


def _aliases(model: onnx.ModelProto, produced: Mapping[str, object]) -> dict[str, str]:
    """Outputs of nodes that move values, with where the values come from."""
    aliases: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in MOVES and node.input[0] in produced:
            source = aliases.get(node.input[0], node.input[0])
            aliases.update({name: source for name in node.output if name})
    return aliases


def _measuring(model: onnx.ModelProto, measured: list[str]) -> onnx.ModelProto:
    """The graph with one output: (3 * tensors,) of max |x|, ||fp16(x) - x||, ||x||."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    after: dict[str, list[onnx.NodeProto]] = {name: _reductions(name) for name in measured}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            nodes += after.get(name, [])
    parts = [f"{name}/{kind}" for name in measured for kind in ("max", "lost", "norm")]
    nodes.append(helper.make_node("Concat", parts, [_STATISTICS], name=_STATISTICS, axis=0))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(_STATISTICS, TensorProto.FLOAT, [len(parts)]))
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "range_flat"))
    return copy


def _reductions(name: str) -> list[onnx.NodeProto]:
    def node(operator: str, inputs: list[str], part: str, attribute: tuple[str, int] | None = None) -> onnx.NodeProto:
        made = helper.make_node(operator, inputs, [f"{name}/{part}"], name=f"{name}/{part}")
        if attribute is not None:
            made.attribute.append(helper.make_attribute(*attribute))
        return made

    return [
        node("Reshape", [name, "range_flat"], "flat"),
        node("Abs", [f"{name}/flat"], "abs"),
        node("ReduceMax", [f"{name}/abs"], "max", ("keepdims", 1)),
        node("Cast", [f"{name}/flat"], "half", ("to", TensorProto.FLOAT16)),
        node("Cast", [f"{name}/half"], "back", ("to", TensorProto.FLOAT)),
        node("Sub", [f"{name}/back", f"{name}/flat"], "difference"),
        node("ReduceL2", [f"{name}/difference"], "lost", ("keepdims", 1)),
        node("ReduceL2", [f"{name}/flat"], "norm", ("keepdims", 1)),
    ]
