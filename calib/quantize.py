"""graph.fp32.onnx -> INT8, the recipe: frames, their ranges, which nodes take integers, the integers, the proof.

    frames      images, known by their hashes
    split       which of them calibrate, which choose, which judge; the three share none
    ranges/     what goes through the tensors; outliers moved into weights; scales
    choice/     what every node costs alone, the plan, and the search that shrinks it until the proof holds
    lowering/   the plan written as each backend wants it, and its kernels counted
    proof       the graph on its real backend, against the float graph

A caller with a gate of its own takes plan after plan from `prepare`. Speed is judged by the caller, with
`choice.speed`, since only it knows the other engines.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from brixel_edge.calib.choice.curve import measure_curve, save_curve
from brixel_edge.calib.choice.memory import require_memory
from brixel_edge.calib.choice.plan import Int8Plan, Planner
from brixel_edge.calib.choice.search import Found, PlanSearch
from brixel_edge.calib.choice.sensitivity import sweep
from brixel_edge.calib.engines import OpenVinoEngine
from brixel_edge.calib.frames import FrameStore, require_variety
from brixel_edge.calib.graph import Graph, load_graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.lowering.targets import GRAPH_NAMES, Int8Target, IntegerWriter
from brixel_edge.calib.proof import Bounds, Judge, Proven, judge_from_float, require_smoothing_left_the_function
from brixel_edge.calib.ranges.cache import cached_calibration
from brixel_edge.calib.ranges.calibration import Calibration
from brixel_edge.calib.split import split_frames
from brixel_edge.errors import SpecError
from brixel_edge.machine.files import sha256_of, write_atomically
from brixel_edge.machine.memory import peak_rss_bytes
from brixel_edge.machine.openvino_hint import OpenVinoPrecision, has_bf16

log = logging.getLogger(__name__)

CALIBRATION_NAME, PLAN_NAME, CURVE_NAME = "calib.json", "plan.json", "curve.json"
DEFAULT_MEMORY_BYTES = 4 << 30
SWEPT = 8  # frames that every node is measured on alone


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
        cache: folder of earlier calibrations, taken where graph, frames and seed are the same; None for none.
    """

    targets: tuple[Int8Target, ...] = ("ort",)
    bounds: Bounds = field(default_factory=Bounds)
    seed: int = 0
    threads: int = 2
    max_memory_bytes: int = DEFAULT_MEMORY_BYTES
    curve_points: int = 5
    cache: Path | None = None

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
        frames: how many frames calibrated, chose, and judged.
        frames_sha256: digest of the frames of each of these parts.
        smoothed_groups: groups whose outliers were moved, of all groups.
        rounds: plans that were lowered.
        curve_ms: nodes in INT8 -> latency at the points of the curve [ms].
        seconds: wall time.
        peak_rss_bytes: of this process, so far.
        files: what was written, by name.
    """

    graph_sha256: str
    plan: Int8Plan
    lowered: tuple[Proven, ...]
    frames: Mapping[str, int]
    frames_sha256: Mapping[str, str]
    smoothed_groups: tuple[int, int]
    rounds: int
    curve_ms: Mapping[str, float]
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
            "frames_sha256": dict(self.frames_sha256),
            "lowered": [entry.to_json() for entry in self.lowered],
            "rounds": self.rounds,
            "curve_ms": dict(self.curve_ms),
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
            "files": list(self.files),
        }


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """A calibrated graph and the search for its plan; made by `prepare`.

    Attributes:
        folder: of all files.
        settings: how.
        calibration: of the graph.
        writer: of its INT8 graphs.
        search: for the plan.
        frames: how many calibrate, choose, and judge.
        frames_sha256: digest of the frames of each of these parts.
        begin_s: when it began, by the process's clock.
    """

    folder: Path
    settings: Settings
    calibration: Calibration = field(repr=False)
    writer: IntegerWriter = field(repr=False)
    search: PlanSearch = field(repr=False)
    frames: Mapping[str, int]
    frames_sha256: Mapping[str, str]
    begin_s: float

    def next_plan(self, refusal: str = "") -> Found:
        """The next plan that holds on frames that neither calibrated nor chose; its graphs are written.

        Args:
            refusal: what a gate of the caller's said of the plan before; the worst nodes return to floating point.

        Raises:
            BuildError: a backend runs the lowering in floating point.
            ParityError: no plan reaches the bounds with a useful share of INT8.
        """
        return self.search.next_plan(refusal)

    def finish(self, found: Found) -> Int8Report:
        """Write plan and curve of the plan that is kept, and say what became of the graph."""
        found.plan.save(self.folder / PLAN_NAME)
        files, curve_ms = [CALIBRATION_NAME, PLAN_NAME, *dict.fromkeys(entry.file for entry in found.proven)], {}
        if self.settings.curve_points:
            target, points = self.settings.targets[0], self.settings.curve_points
            measured, curve_ms = measure_curve(target, found.plan, self.writer, found.judge, points=points)
            save_curve(measured, found.plan, target, self.folder / CURVE_NAME)
            files.append(CURVE_NAME)
        smoothing = self.calibration.smoothing
        return Int8Report(
            graph_sha256=self.calibration.graph_sha256,
            plan=found.plan,
            lowered=found.proven,
            frames={**self.frames, "panels": found.panels},
            frames_sha256=self.frames_sha256,
            smoothed_groups=(sum(entry.alpha is not None for entry in smoothing), len(smoothing)),
            rounds=found.rounds,
            curve_ms=curve_ms,
            seconds=time.perf_counter() - self.begin_s,
            peak_rss_bytes=peak_rss_bytes(),
            files=tuple(files),
        )


def prepare(graph: Path, frames: FrameStore, *, out_dir: Path, settings: Settings = Settings()) -> Quantization:
    """Calibrate a float graph and measure what each of its nodes costs in INT8.

    Args:
        graph: graph.fp32.onnx of brixel-export.
        frames: at the graph's size, in the graph's channel order.
        out_dir: folder for `graph.int8*.onnx`, `plan.json`, `calib.json` and `curve.json`.
        settings: how.

    Raises:
        BundleError: not a graph of brixel-export.
        SpecError: frames of another size, too few, or flat ones.
        MemoryBudgetError: it would take more memory than allowed.
        BuildError: NaN in the graph.
    """
    begin_s = time.perf_counter()
    seed, threads = settings.seed, settings.threads
    loaded, sha256 = load_graph(graph), sha256_of(graph)
    require_memory(loaded, settings.max_memory_bytes)
    require_variety(frames, loaded.image_shape)
    out_dir.mkdir(parents=True, exist_ok=True)
    split = split_frames(frames.times_s, seed)
    hashes = [frames.hashes[position] for position in split.calibration]

    calibration = cached_calibration(
        settings.cache, loaded, sha256, frames.pick(split.calibration), hashes, seed=seed, threads=threads
    )
    calibration.save(out_dir / CALIBRATION_NAME)
    smoothed = calibration.smoothed(loaded)

    def judge(positions: Sequence[int]) -> Judge:
        groups = [split.groups[position] for position in positions]
        return judge_from_float(loaded, list(frames.pick(positions)), groups, seed=seed, threads=threads)

    choice = judge(split.choice)
    require_smoothing_left_the_function(loaded, smoothed, choice.frames[0], threads=threads)
    layers = find_layers(loaded)
    candidates = calibration.integer_layers(layer for layer in layers if not layer.excluded)
    effects = sweep(smoothed, candidates, choice.frames[:SWEPT], threads=threads)
    planner = Planner(layers=layers, calibration=calibration, effects=effects, bounds=settings.bounds)
    writer = IntegerWriter(
        smoothed=smoothed,
        candidates=candidates,
        ranges=calibration.ranges,
        openvino_precision=_openvino_precision(smoothed, choice, settings, out_dir),
    )
    panels = (judge(panel) for panel in split.panels())
    return Quantization(
        folder=out_dir,
        settings=settings,
        calibration=calibration,
        writer=writer,
        search=PlanSearch(planner, writer, choice, panels, settings.targets, out_dir),
        frames=split.counts,
        frames_sha256={name: _digest(frames, positions) for name, positions in split.parts.items()},
        begin_s=begin_s,
    )


def _openvino_precision(graph: Graph, judge: Judge, settings: Settings, folder: Path) -> OpenVinoPrecision | None:
    """What OpenVINO shall compute the float part in: f32 where bf16 alone already misses the bounds."""
    if "openvino" not in settings.targets or not has_bf16():
        return None
    path = folder / GRAPH_NAMES["openvino"]
    write_atomically(path, graph.serialized())
    try:
        cells = judge.cells(OpenVinoEngine(path, threads=settings.threads, precision="bf16"))
    finally:
        path.unlink()
    missed = [
        text
        for name, reference in judge.reference.items()
        for text in judge.closeness(reference, cells[name], name).shortfalls(name, settings.bounds)
    ]
    if missed:
        log.info("OpenVINO computes the float part in f32: in bf16 %s", "; ".join(missed))
    return "f32" if missed else None


def quantize(graph: Path, frames: FrameStore, *, out_dir: Path, settings: Settings = Settings()) -> Int8Report:
    """Make the INT8 graphs of a float graph: the first plan that holds; see `prepare` and `Quantization`.

    Raises:
        BundleError: not a graph of brixel-export.
        SpecError: frames of another size, too few, or flat ones.
        MemoryBudgetError: it would take more memory than allowed.
        BuildError: NaN in the graph; a backend that runs the lowering in floating point.
        ParityError: no plan reaches the bounds with a useful share of INT8.
    """
    quantization = prepare(graph, frames, out_dir=out_dir, settings=settings)
    return quantization.finish(quantization.next_plan())


def _digest(frames: FrameStore, positions: Sequence[int]) -> str:
    """sha256 over the hashes of frames, in a fixed order."""
    return hashlib.sha256("".join(sorted(frames.hashes[position] for position in positions)).encode()).hexdigest()
