"""graph.fp32.onnx -> INT8: calibrate, smooth, measure every node alone, plan, lower, verify on the real backend.

Each stage has its module; this one strings them together and holds the loop that decides. If the gate fails on frames
that nothing was fitted to, the budget shrinks and more nodes return to floating point, until it holds or INT8 is no
longer worth its name. Speed is judged by the caller, with `speed.speed_verdict`, since only it knows the other
engines.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from brixel_edge.calib.choice.curve import draw_curve, measure_curve, save_curve
from brixel_edge.calib.choice.memory import require_memory
from brixel_edge.calib.choice.plan import BUDGET_SHARE, Bounds, Plan, demote, make_plan
from brixel_edge.calib.choice.sensitivity import Effect, sweep
from brixel_edge.calib.frames import Frame, FrameSplit, FrameStore, split_frames, store_frames
from brixel_edge.calib.graph import Graph, load_graph
from brixel_edge.calib.layers import Layer, find_layers
from brixel_edge.calib.lowering.engines import OrtEngine
from brixel_edge.calib.lowering.kernels import take_census
from brixel_edge.calib.lowering.lowering import (
    GRAPH_NAMES,
    Cells,
    Lowered,
    Target,
    cells_over,
    verify_lowering,
    write_lowering,
)
from brixel_edge.calib.ranges.calibration import Calibration, calibrate, load_calibration
from brixel_edge.calib.ranges.smooth import require_same_function
from brixel_edge.errors import BuildError, ParityError, SpecError
from brixel_edge.machine.files import sha256_of
from brixel_edge.machine.memory import peak_rss_bytes

log = logging.getLogger(__name__)

CALIBRATION_NAME, PLAN_NAME, CURVE_NAME, PICTURE_NAME = "calib.json", "plan.json", "curve.json", "curve.png"
DEFAULT_MEMORY_BYTES = 4 << 30
SHRINK = 0.7
MIN_INT8_SHARE = 0.3  # of the weighted multiply-accumulates; with less, INT8 cannot pay for its own rounding
MAX_REFUSED_SHARE = 0.25  # of the nodes; more that a backend runs in float means that the lowering is wrong for it


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
        shown: draw progress.
    """

    targets: tuple[Target, ...] = ("ort",)
    bounds: Bounds = field(default_factory=Bounds)
    seed: int = 0
    threads: int = 2
    max_memory_bytes: int = DEFAULT_MEMORY_BYTES
    curve_points: int = 5
    shown: bool = True

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
        rounds: plans that were lowered and verified.
        seconds: wall time.
        peak_rss_bytes: of this process, so far.
        files: what was written, by name.
    """

    graph_sha256: str
    plan: Plan
    lowered: tuple[Lowered, ...]
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


def quantize(
    graph: Path, frames: Iterable[Frame], *, out_dir: Path, settings: Settings = Settings(), cache: Path | None = None
) -> Int8Report:
    """Make the INT8 graphs of a float graph, with plan, calibration and curve beside them.

    Args:
        graph: graph.fp32.onnx of brixel-export.
        frames: uint8 (H, W, 3) images at the graph's size, in the graph's channel order; read once.
        out_dir: folder for `graph.int8*.onnx`, `plan.json`, `calib.json`, `curve.json` and `curve.png`.
        settings: how.
        cache: a `calib.json` to use instead of calibrating; refused if made from another graph or other frames.

    Raises:
        BundleError: not a graph of brixel-export; a stale cache.
        SpecError: frames of another size, too few, or flat ones.
        MemoryBudgetError: it would take more memory than allowed.
        BuildError: NaN in the graph; a backend that runs the lowering in floating point.
        ParityError: no plan reaches the bounds with a useful share of INT8.
    """
    begin_s = time.perf_counter()
    loaded, sha256 = load_graph(graph), sha256_of(graph)
    require_memory(loaded, settings.max_memory_bytes)
    out_dir.mkdir(parents=True, exist_ok=True)
    layers = find_layers(loaded)
    with tempfile.TemporaryDirectory(prefix=".frames.", dir=out_dir) as spool:
        store = store_frames(frames, Path(spool) / "frames.raw", loaded.image_shape)
        split = split_frames(len(store), settings.seed)
        calibration = _calibration(loaded, sha256, store, split, settings, cache)
        calibration.save(out_dir / CALIBRATION_NAME)
        smoothed = calibration.smoothed(loaded)
        judged = list(store.pick(split.evaluation))
        reference = _reference(loaded, smoothed, judged, settings.threads)
        candidates = calibration.integer_layers(layer for layer in layers if not layer.excluded)
        held_out = list(store.pick(split.sensitivity))
        effects = sweep(smoothed, candidates, held_out, threads=settings.threads, shown=settings.shown)
    search = _Search(smoothed, layers, calibration, effects, judged, reference, settings, out_dir)
    plan, lowered = search.run()
    files = [CALIBRATION_NAME, plan.save(out_dir / PLAN_NAME).name, *dict.fromkeys(entry.file for entry in lowered)]
    if settings.curve_points:
        files += _curve(search, plan, settings, out_dir)
    moved = sum(entry.alpha is not None for entry in calibration.smoothing)
    return Int8Report(
        graph_sha256=sha256,
        plan=plan,
        lowered=lowered,
        frames={name: len(part) for name, part in asdict(split).items()},
        smoothed_groups=(moved, len(calibration.smoothing)),
        rounds=search.rounds,
        seconds=time.perf_counter() - begin_s,
        peak_rss_bytes=peak_rss_bytes(),
        files=tuple(files),
    )


def _calibration(
    graph: Graph, sha256: str, store: FrameStore, split: FrameSplit, settings: Settings, cache: Path | None
) -> Calibration:
    hashes = [store.hashes[position] for position in split.calibration]
    if cache is not None:
        return load_calibration(cache, graph, sha256, hashes)
    frames = store.pick(split.calibration)
    return calibrate(graph, sha256, frames, hashes, seed=settings.seed, threads=settings.threads, shown=settings.shown)


def _reference(graph: Graph, smoothed: Graph, frames: Sequence[Frame], threads: int) -> Cells:
    """Cells of the float graph on the judging frames, after a check that smoothing left the function alone."""
    engine = OrtEngine(graph.serialized(), threads=threads)
    before = engine.run(frames[0])
    after = OrtEngine(smoothed.serialized(), threads=threads).run(frames[0])
    require_same_function({name: before[name] for name in graph.float_outputs}, after)
    return cells_over(engine, frames, graph.float_outputs)


class _Search:
    """Stage H: plans with ever smaller budgets, each lowered for every target and verified there."""

    def __init__(
        self, smoothed: Graph, layers: Sequence[Layer], calibration: Calibration, effects: Mapping[str, Effect],
        frames: Sequence[Frame], reference: Cells, settings: Settings, out_dir: Path,
    ) -> None:  # fmt: skip
        self.smoothed, self.layers, self.calibration, self.effects = smoothed, layers, calibration, effects
        self.frames, self.reference, self.settings, self.out_dir = frames, reference, settings, out_dir
        self.refused: frozenset[str] = frozenset()
        self.rounds = 0

    def run(self) -> tuple[Plan, tuple[Lowered, ...]]:
        """The first plan that passes on every target.

        Raises:
            ParityError: none does; the graphs are removed.
        """
        budget, tried, shortfalls = BUDGET_SHARE, None, []
        while True:
            plan = self._plan(budget)
            if plan.int8_macs_share < MIN_INT8_SHARE:
                self._remove_graphs()
                raise ParityError(
                    f"INT8 misses its bounds even with {1 - MIN_INT8_SHARE:.0%} of the work in floating point "
                    f"({'; '.join(shortfalls) or 'single nodes lose too much'}); use a float engine, or other frames"
                )
            if plan.integers != tried:
                plan, lowered = self._lower(plan)
                tried, shortfalls = (
                    plan.integers,
                    [text for entry in lowered for text in entry.shortfalls(self.settings.bounds)],
                )
                if not shortfalls:
                    return plan, lowered
                log.info("INT8 with %d nodes: %s", len(plan.integers), "; ".join(shortfalls))
            budget *= SHRINK

    def _plan(self, budget: float) -> Plan:
        plan = make_plan(self.layers, self.calibration, self.effects, self.settings.bounds, budget_share=budget)
        return demote(plan, self.refused & plan.integers, "OpenVINO runs it in floating point")

    def _lower(self, plan: Plan) -> tuple[Plan, tuple[Lowered, ...]]:
        self.rounds += 1
        if "openvino" in self.settings.targets:
            plan = self._without_refused(plan)
        return plan, tuple(self._lower_for(target, plan) for target in self.settings.targets)

    def _write(self, target: Target, plan: Plan) -> Path:
        path = self.out_dir / GRAPH_NAMES[target]
        return write_lowering(target, self.smoothed, self.layers, plan.integers, self.calibration, path)

    def _without_refused(self, plan: Plan) -> Plan:
        """Leave in floating point what OpenVINO does not take: it turns some 1x1 convolutions into float products."""
        path = self._write("openvino", plan)
        census = take_census("openvino", path, self.frames[0], threads=self.settings.threads)
        found = census.float_names & plan.integers
        if len(found) > MAX_REFUSED_SHARE * len(plan.integers):
            raise BuildError(
                f"OpenVINO runs {len(found)} of {len(plan.integers)} INT8 nodes in floating point; its CPU lacks INT8"
            )
        self.refused |= found
        return demote(plan, found, "OpenVINO runs it in floating point")

    def _lower_for(self, target: Target, plan: Plan) -> Lowered:
        return verify_lowering(
            target,
            self._write(target, plan),
            self.frames,
            self.reference,
            expected=len(plan.integers),
            seed=self.settings.seed,
            threads=self.settings.threads,
        )

    def _remove_graphs(self) -> None:
        for target in self.settings.targets:
            (self.out_dir / GRAPH_NAMES[target]).unlink(missing_ok=True)


def _curve(search: _Search, plan: Plan, settings: Settings, out_dir: Path) -> list[str]:
    target = settings.targets[0]
    points = measure_curve(
        target, search.smoothed, search.layers, plan, search.calibration, search.frames, search.reference,
        points=settings.curve_points, threads=settings.threads, shown=settings.shown,
    )  # fmt: skip
    save_curve(points, plan, target, out_dir / CURVE_NAME)
    draw_curve(points, plan, target, out_dir / PICTURE_NAME)
    return [CURVE_NAME, PICTURE_NAME]
