"""The curve between all-integer and all-float, measured: nodes in INT8, cosine predicted and measured, latency.

Written as JSON for machines and as PNG for people. Times live here and not in the plan, which must not change from
run to run.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brixel_edge.calib.choice.plan import Plan
from brixel_edge.calib.choice.progress import progress
from brixel_edge.calib.frames import Frame
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import Layer
from brixel_edge.calib.lowering.engines import Engine, median_ms
from brixel_edge.calib.lowering.lowering import Cells, Target, cells_over, open_lowering, write_lowering
from brixel_edge.calib.ranges.calibration import Calibration
from brixel_edge.proof.probe import mean_cosine

_TITLES: dict[Target, str] = {"ort": "ONNX Runtime", "openvino": "OpenVINO", "trt": "ONNX Runtime, as TensorRT rounds"}


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One measured state.

    Attributes:
        int8_nodes: nodes in INT8.
        int8_macs_share: share of the weighted multiply-accumulates that they do.
        predicted: mean cosine of the worst output, from the sweep.
        measured: the same, run on the target.
        latency_ms: median [ms]; None where the target cannot run here.
    """

    int8_nodes: int
    int8_macs_share: float
    predicted: float
    measured: float
    latency_ms: float | None


def measure_curve(
    target: Target,
    smoothed: Graph,
    layers: Sequence[Layer],
    plan: Plan,
    calibration: Calibration,
    frames: Sequence[Frame],
    reference: Cells,
    *,
    points: int,
    threads: int,
    shown: bool = True,
) -> list[CurvePoint]:
    """Build, run and time a few states of the plan's predicted curve, all-integer first.

    Latencies are taken call by call in turn, so that all states meet the same machine.
    """
    count = len(plan.pareto) - 1
    chosen = sorted({round(step) for step in np.linspace(0, count, points)})
    order = [point.to_float for point in plan.pareto[1:]]
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Engine] = {}
        measured: dict[int, float] = {}
        for k in progress(chosen, "curve", shown=shown):
            integers = frozenset(order[k:])
            path = write_lowering(target, smoothed, layers, integers, calibration, Path(folder) / f"{k}.onnx")
            engines[str(k)] = open_lowering(target, path, threads=threads)
            cells = cells_over(engines[str(k)], frames, list(reference))
            measured[k] = min(mean_cosine(reference[name], cells[name]) for name in reference)
        times = {} if target == "trt" else median_ms(engines, frames[0], rounds=5, warmup=1)
    return [
        CurvePoint(
            int8_nodes=plan.pareto[k].int8_nodes,
            int8_macs_share=plan.pareto[k].int8_macs_share,
            predicted=min(plan.pareto[k].cosine.values()),
            measured=measured[k],
            latency_ms=times.get(str(k)),
        )
        for k in chosen
    ]


def save_curve(points: Sequence[CurvePoint], plan: Plan, target: Target, path: Path) -> Path:
    """Write the measured points and the whole predicted curve as JSON."""
    record: dict[str, Any] = {
        "target": target,
        "graph_sha256": plan.graph_sha256,
        "chosen_int8_nodes": len(plan.integers),
        "measured": [asdict(point) for point in points],
        "predicted": [
            {"int8_nodes": point.int8_nodes, "cosine": min(point.cosine.values()), "to_float": point.to_float}
            for point in plan.pareto
        ],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def draw_curve(points: Sequence[CurvePoint], plan: Plan, target: Target, path: Path) -> Path:
    """Draw the curve: loss of cosine over nodes in INT8, predicted as a line and measured as marks, latency beneath."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    timed = [point for point in points if point.latency_ms is not None]
    axes = figure.subplots(2 if timed else 1, 1, sharex=True, squeeze=False)[:, 0]
    floor = 1e-8
    predicted = [(point.int8_nodes, max(1 - min(point.cosine.values()), floor)) for point in plan.pareto]
    axes[0].semilogy(*zip(*predicted, strict=True), label="predicted from one sweep")
    measured = [(point.int8_nodes, max(1 - point.measured, floor)) for point in points]
    axes[0].semilogy(*zip(*measured, strict=True), "o", label=f"measured in {_TITLES[target]}")
    axes[0].axhline(1 - plan.bounds.mean, linestyle="--", color="grey", label=f"bound {plan.bounds.mean}")
    axes[0].axvline(len(plan.integers), linestyle=":", color="grey", label=f"chosen: {len(plan.integers)} nodes")
    axes[0].set_title(f"INT8 of graph {plan.graph_sha256[:12]}")
    axes[0].set_ylabel("1 - mean cosine")
    axes[0].legend(fontsize="small")
    for axis in axes:
        axis.grid(alpha=0.3)
    if timed:
        latencies = [point.latency_ms or 0.0 for point in timed]
        axes[1].plot([point.int8_nodes for point in timed], latencies, "o-")
        axes[1].set_ylabel(f"latency in {_TITLES[target]} [ms]")
        axes[1].set_ylim(0, 1.15 * max(latencies))
    axes[-1].set_xlabel("linears and convolutions in INT8, the rest in floating point")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
