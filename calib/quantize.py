"""graph.fp32.onnx -> INT8, the recipe: frames, their ranges, which nodes take integers, the integers, the proof.

    frames      which images calibrate, which measure sensitivity, which judge; the three share none
    ranges/     what goes through the tensors; outliers moved into weights; scales
    choice/     what every node costs alone, the plan, and the search that shrinks it until the proof holds
    lowering/   the plan written as each backend wants it, and its kernels counted
    proof       the graph on its real backend, against the float graph

Speed is judged by the caller, with `choice.speed`, since only it knows the other engines.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from brixel_edge.calib.choice.curve import measure_curve, save_curve
from brixel_edge.calib.choice.memory import require_memory
from brixel_edge.calib.choice.plan import Int8Plan, make_plan
from brixel_edge.calib.choice.search import first_plan_that_holds
from brixel_edge.calib.choice.sensitivity import sweep
from brixel_edge.calib.frames import FrameStore, require_variety, split_frames
from brixel_edge.calib.graph import load_graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.lowering.targets import GRAPH_NAMES, Int8Target, IntegerWriter
from brixel_edge.calib.proof import Bounds, Proven, judge_from_float
from brixel_edge.calib.ranges.calibration import calibrate
from brixel_edge.errors import SpecError
from brixel_edge.machine.files import sha256_of
from brixel_edge.machine.memory import peak_rss_bytes

CALIBRATION_NAME, PLAN_NAME, CURVE_NAME = "calib.json", "plan.json", "curve.json"
DEFAULT_MEMORY_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to quantise.

    Attributes:
        targets: backends to lower for; the gate must hold on each, with one plan.
        bounds: the gate.
        seed: of all that is random.
        threads: of inference.
        max_memory_bytes: calibration is refused where it would take more.
        curve_points: states of the curve to measure; 0 for none.
    """

    targets: tuple[Int8Target, ...] = ("ort",)
    bounds: Bounds = field(default_factory=Bounds)
    seed: int = 0
    threads: int = 2
    max_memory_bytes: int = DEFAULT_MEMORY_BYTES
    curve_points: int = 5

    def __post_init__(self) -> None:
        unknown = set(self.targets) - set(GRAPH_NAMES)
        if unknown or not self.targets:
            raise SpecError(f"INT8 targets {self.targets} must be some of {', '.join(GRAPH_NAMES)}")


@dataclass(frozen=True, kw_only=True)
class Int8Report:
    """What became of a graph.

    Attributes:
        graph_sha256: of the float graph.
        plan: the plan that holds.
        lowered: one entry a target.
        frames: how many frames calibrated, measured sensitivity, and judged.
        smoothed_groups: groups whose outliers were moved, of all groups.
        rounds: plans that were lowered and proven.
        seconds: wall time.
        peak_rss_bytes: of this process, so far.
        files: what was written, by name.
    """

    graph_sha256: str
    plan: Int8Plan
    lowered: tuple[Proven, ...]
    frames: Mapping[str, int]
    smoothed_groups: tuple[int, int]
    rounds: int
    seconds: float
    peak_rss_bytes: int | None
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for a receipt; the nodes are in plan.json."""
        kept = [node for node in self.plan.nodes if node.precision == "float"]
        return {
            "graph_sha256": self.graph_sha256,
            "seed": self.plan.seed,
            "bounds": asdict(self.plan.bounds),
            "int8_nodes": len(self.plan.integers),
            "float_nodes": {node.name: node.reason for node in kept},
            "int8_macs_share": self.plan.int8_macs_share,
            "smoothed_groups": {"moved": self.smoothed_groups[0], "of": self.smoothed_groups[1]},
            "frames": dict(self.frames),
            "lowered": [entry.to_json() for entry in self.lowered],
            "rounds": self.rounds,
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
            "files": list(self.files),
        }


def quantize(graph: Path, frames: FrameStore, *, out_dir: Path, settings: Settings = Settings()) -> Int8Report:
    """Make the INT8 graphs of a float graph, with plan, calibration and curve beside them.

    Args:
        graph: graph.fp32.onnx of brixel-export.
        frames: at the graph's size, in the graph's channel order.
        out_dir: folder for `graph.int8*.onnx`, `plan.json`, `calib.json` and `curve.json`.
        settings: how.

    Raises:
        BundleError: not a graph of brixel-export.
        SpecError: frames of another size, too few, or flat ones.
        MemoryBudgetError: it would take more memory than allowed.
        BuildError: NaN in the graph; a backend that runs the lowering in floating point.
        ParityError: no plan reaches the bounds with a useful share of INT8.
    """
    begin_s = time.perf_counter()
    seed, threads = settings.seed, settings.threads
    loaded, sha256 = load_graph(graph), sha256_of(graph)
    require_memory(loaded, settings.max_memory_bytes)
    require_variety(frames, loaded.image_shape)
    out_dir.mkdir(parents=True, exist_ok=True)
    split = split_frames(len(frames), seed)
    hashes = [frames.hashes[position] for position in split.calibration]

    calibration = calibrate(loaded, sha256, frames.pick(split.calibration), hashes, seed=seed, threads=threads)
    calibration.save(out_dir / CALIBRATION_NAME)
    smoothed = calibration.smoothed(loaded)
    judge = judge_from_float(loaded, smoothed, list(frames.pick(split.evaluation)), seed=seed, threads=threads)

    layers = find_layers(loaded)
    candidates = calibration.integer_layers(layer for layer in layers if not layer.excluded)
    effects = sweep(smoothed, candidates, list(frames.pick(split.sensitivity)), threads=threads)
    writer = IntegerWriter(smoothed=smoothed, candidates=candidates, ranges=calibration.ranges)
    found = first_plan_that_holds(
        lambda budget: make_plan(layers, calibration, effects, settings.bounds, budget_share=budget),
        writer,
        judge,
        settings.targets,
        out_dir,
    )
    found.plan.save(out_dir / PLAN_NAME)
    files = [CALIBRATION_NAME, PLAN_NAME, *dict.fromkeys(entry.file for entry in found.proven)]
    if settings.curve_points:
        target = settings.targets[0]
        points = measure_curve(target, found.plan, writer, judge, points=settings.curve_points)
        save_curve(points, found.plan, target, out_dir / CURVE_NAME)
        files.append(CURVE_NAME)
    return Int8Report(
        graph_sha256=sha256,
        plan=found.plan,
        lowered=found.proven,
        frames={name: len(part) for name, part in asdict(split).items()},
        smoothed_groups=(sum(entry.alpha is not None for entry in calibration.smoothing), len(calibration.smoothing)),
        rounds=found.rounds,
        seconds=time.perf_counter() - begin_s,
        peak_rss_bytes=peak_rss_bytes(),
        files=tuple(files),
    )
