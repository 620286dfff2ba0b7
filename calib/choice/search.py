"""Plans with ever smaller budgets, each lowered for every target and proven there, until one holds.

First on the frames that choose; a plan that holds there meets a panel of frames that neither calibrated nor chose, and
then the caller's own gate. Where one fails, the budget shrinks and more nodes return to floating point, until a plan
holds or INT8 is no longer worth its name. A panel that refused a plan has told what to change: it joins the frames that
choose, and the next plan meets the next panel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.calib.choice.plan import BUDGET_SHARE, Int8Plan, demote
from brixel_edge.calib.lowering.targets import GRAPH_NAMES, Int8Target, IntegerWriter
from brixel_edge.calib.proof import Judge, Proven
from brixel_edge.errors import BuildError, ParityError

log = logging.getLogger(__name__)

SHRINK = 0.7
MIN_INT8_SHARE = 0.3  # of the weighted multiply-accumulates; with less, INT8 cannot pay for its own rounding
MAX_REFUSED_SHARE = 0.25  # of the nodes; more that a backend runs in float means that the lowering is wrong for it


@dataclass(frozen=True, kw_only=True)
class Found:
    """The plan that holds.

    Attributes:
        plan: it.
        proven: one entry a target, on the panel that judged.
        judge: the panel.
        rounds: plans that were lowered.
        panels: that judged; all but the last refused.
    """

    plan: Int8Plan
    proven: tuple[Proven, ...]
    judge: Judge
    rounds: int
    panels: int


def first_plan_that_holds(
    plan_within: Callable[[float], Int8Plan],
    writer: IntegerWriter,
    choice: Judge,
    panels: Iterator[Judge],
    targets: Sequence[Int8Target],
    out_dir: Path,
    *,
    require: Callable[[Int8Target], None] = lambda target: None,
) -> Found:
    """Search.

    Args:
        plan_within: the plan for a share of the allowed loss.
        writer: of the graphs.
        choice: the frames that choose.
        panels: frames that judge, one panel after another.
        targets: backends; the gate must hold on each, with one plan.
        out_dir: where the graphs stay.
        require: the caller's gate of a target's graph, which raises ParityError; it may change the graph.

    Raises:
        ParityError: none holds; the graphs are removed.
        BuildError: a backend runs the lowering in floating point.
    """
    bench = _Workbench(writer=writer, paths={target: out_dir / GRAPH_NAMES[target] for target in targets})
    budget, rounds, used = BUDGET_SHARE, 0, 0
    refused: frozenset[str] = frozenset()
    tried: frozenset[str] | None = None
    shortfalls: list[str] = []
    panel = next(panels)
    while True:
        plan = _without(refused, plan_within(budget))
        if plan.int8_macs_share < MIN_INT8_SHARE:
            share = f"{1 - MIN_INT8_SHARE:.0%} of the work in floating point"
            raise bench.given_up(f"INT8 misses its bounds even with {share}", shortfalls)
        if plan.integers != tried:
            rounds += 1
            if "openvino" in targets:
                refused |= _refused(plan, bench.write("openvino", plan), choice)
                plan = _without(refused, plan)
            tried = plan.integers
            shortfalls = bench.proven(choice, plan)[1]
            if not shortfalls:
                proven, shortfalls = bench.proven(panel, plan)
                if not shortfalls and not (shortfalls := _missed(targets, require)):
                    return Found(plan=plan, proven=proven, judge=panel, rounds=rounds, panels=used + 1)
                if any(entry.shortfalls(plan.bounds) for entry in proven):
                    choice, used = choice.joined(panel), used + 1
                    panel = next(panels, None)
                    if panel is None:
                        raise bench.given_up(
                            f"INT8 missed its bounds on all {used} panels of judging frames", shortfalls
                        )
            log.info("INT8 with %d nodes: %s", len(plan.integers), "; ".join(shortfalls))
        budget *= SHRINK


@dataclass(frozen=True, kw_only=True)
class _Workbench:
    """Where the graphs of a plan are written and run."""

    writer: IntegerWriter
    paths: Mapping[Int8Target, Path]

    def write(self, target: Int8Target, plan: Int8Plan) -> Path:
        return self.writer.write(target, plan.integers, self.paths[target])

    def proven(self, judge: Judge, plan: Int8Plan) -> tuple[tuple[Proven, ...], list[str]]:
        """Every target's graph on a judge's frames, and the bounds that they miss."""
        proven = tuple(
            judge.prove(target, self.write(target, plan), expected=len(plan.integers)) for target in self.paths
        )
        return proven, [text for entry in proven for text in entry.shortfalls(plan.bounds)]

    def given_up(self, reason: str, shortfalls: Sequence[str]) -> ParityError:
        """The error to raise; the graphs are gone."""
        for path in self.paths.values():
            path.unlink(missing_ok=True)
        found = "; ".join(shortfalls) or "single nodes lose too much"
        return ParityError(f"{reason} ({found}); use a float engine, or other frames")


def _missed(targets: Sequence[Int8Target], require: Callable[[Int8Target], None]) -> list[str]:
    """What the caller's gate says of the graphs."""
    for target in targets:
        try:
            require(target)
        except ParityError as error:
            return [str(error)]
    return []


def _refused(plan: Int8Plan, path: Path, judge: Judge) -> frozenset[str]:
    """What OpenVINO does not take: it turns some 1x1 convolutions into float products."""
    found = judge.count_kernels("openvino", path).float_names & plan.integers
    if len(found) > MAX_REFUSED_SHARE * len(plan.integers):
        raise BuildError(
            f"OpenVINO runs {len(found)} of {len(plan.integers)} INT8 nodes in floating point; its CPU lacks INT8"
        )
    return found


def _without(refused: frozenset[str], plan: Int8Plan) -> Int8Plan:
    return demote(plan, refused & plan.integers, "OpenVINO runs it in floating point")
