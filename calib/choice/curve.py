"""The curve between all-integer and all-float, measured: nodes in INT8, cosine predicted and measured, and latency.

The file has no times, so that the same export gives the same bytes; they are in the receipt, with all that is measured.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from brixel_edge.calib.choice.plan import Int8Plan
from brixel_edge.calib.engines import Engine, median_ms
from brixel_edge.calib.lowering.targets import Int8Target, IntegerWriter
from brixel_edge.calib.proof import Judge
from brixel_edge.machine.files import write_atomically
from brixel_edge.machine.progress import progress
from brixel_edge.proof.parity import mean_cosine


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One measured state.

    Attributes:
        int8_nodes: nodes in INT8.
        int8_macs_share: share of the weighted multiply-accumulates that they do.
        predicted: mean cosine of the worst output, from the sweep.
        measured: the same, run on the target.
    """

    int8_nodes: int
    int8_macs_share: float
    predicted: float
    measured: float


def measure_curve(
    target: Int8Target, plan: Int8Plan, writer: IntegerWriter, judge: Judge, *, points: int
) -> tuple[list[CurvePoint], dict[str, float]]:
    """Build, run and time a few states of the plan's predicted curve, all-integer first.

    Latencies are taken call by call in turn, so that all states meet the same machine.

    Args:
        target: where they run.
        plan: that was chosen.
        writer: of the states' graphs.
        judge: of their features.
        points: how many states.

    Returns:
        the states, and nodes in INT8 -> median latency [ms]; none where the target cannot run here.
    """
    chosen = sorted({round(step) for step in np.linspace(0, len(plan.pareto) - 1, points)})
    order = [point.to_float for point in plan.pareto[1:]]
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Engine] = {}
        measured: dict[int, float] = {}
        for k in progress(chosen, "curve"):
            path = writer.write(target, order[k:], Path(folder) / f"{k}.onnx")
            engines[str(k)] = judge.open(target, path)
            cells = judge.cells(engines[str(k)])
            measured[k] = min(mean_cosine(reference, cells[name]) for name, reference in judge.reference.items())
        times = {} if target == "trt" else median_ms(engines, judge.frames[0], rounds=5, warmup=1)
    states = [
        CurvePoint(
            int8_nodes=plan.pareto[k].int8_nodes,
            int8_macs_share=plan.pareto[k].int8_macs_share,
            predicted=min(plan.pareto[k].cosine.values()),
            measured=measured[k],
        )
        for k in chosen
    ]
    return states, {str(plan.pareto[int(k)].int8_nodes): latency_ms for k, latency_ms in times.items()}


def save_curve(points: Sequence[CurvePoint], plan: Int8Plan, target: Int8Target, path: Path) -> None:
    """Write the measured points and the whole predicted curve."""
    record = {
        "target": target,
        "graph_sha256": plan.graph_sha256,
        "chosen_int8_nodes": len(plan.integers),
        "bound": plan.bounds.mean,
        "measured": [asdict(point) for point in points],
        "predicted": [
            {"int8_nodes": point.int8_nodes, "cosine": min(point.cosine.values()), "to_float": point.to_float}
            for point in plan.pareto
        ],
    }
    write_atomically(path, json.dumps(record, indent=1) + "\n")
