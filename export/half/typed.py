"""An fp32 graph on disk -> the same graph in half precision, islands by measured ranges; and what the receipt says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from brixel_edge.export.facts import Photographs
from brixel_edge.export.half.islands import Island, find_islands
from brixel_edge.export.half.ranges import TensorRange, measure_ranges
from brixel_edge.export.half.to_half import half_from_float
from brixel_edge.machine.files import write_atomically
from brixel_edge.model.onnx_file import with_digest
from brixel_edge.model.receipt_sections import Islands, Lowering
from brixel_edge.model.spec import Half


def type_file(
    graph: Path,
    lowering: Lowering,
    ranging: Photographs,
    out: Path,
    *,
    output: Half | None = None,
    keeps_opset: bool = False,
) -> Islands:
    """Write an fp32 graph in a lowering's types; integers in it stay what they are, and what is around them is typed.

    Args:
        graph: file to read; may be `out`.
        lowering: fp16 or bf16.
        ranging: photographs that ranges are measured on.
        out: file to write.
        output: type of the features; None is fp32.
        keeps_opset: as in `write_typed`.

    Returns:
        what stayed in fp32.

    Raises:
        BuildError: the typed graph is not valid.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(str(graph)))
    ranges = measure_ranges(model, ranging.pixels)
    return write_typed(model, ranges, lowering, out, photographs=ranging.names, output=output, keeps_opset=keeps_opset)


def write_typed(
    model: onnx.ModelProto,
    ranges: Mapping[str, TensorRange],
    lowering: Lowering,
    out: Path,
    *,
    photographs: Sequence[str],
    output: Half | None = None,
    keeps_opset: bool = False,
) -> Islands:
    """Write a graph in a lowering's types.

    Args:
        model: fp32, with inferred shapes and a name for every node.
        ranges: of all its tensors.
        lowering: fp16 or bf16, and how readily a node stays in fp32.
        out: file to write.
        photographs: that the ranges were measured on.
        output: type of the features; None is fp32.
        keeps_opset: bf16 at the opset of the fp32 graph, for TensorRT before 10.9.

    Returns:
        what stayed in fp32.

    Raises:
        BuildError: the typed graph is not valid.
    """
    precision: Half = "bf16" if lowering.precision == "bf16" else "fp16"
    level = lowering.islands or "measured"
    islands = find_islands(model, ranges, precision, level, keeps_opset=keeps_opset)
    typed = half_from_float(
        model, precision, [island.node for island in islands], output=output, keeps_opset=keeps_opset
    )
    # Never into a file that is there: a board links the files of a directory instead of copying them.
    write_atomically(out, with_digest(typed.SerializeToString(deterministic=True)))
    return Islands(level=level, photographs=tuple(photographs), nodes=len(islands), reasons=_by_reason(islands))


def _by_reason(islands: Sequence[Island]) -> dict[str, dict[str, float]]:
    reasons: dict[str, dict[str, float]] = {}
    for island in islands:
        reasons.setdefault(island.reason, {})[f"{island.op} {island.node}"] = island.max_abs
    return reasons
