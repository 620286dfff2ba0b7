"""Plans with ever smaller budgets, each lowered for every target and proven there, until one holds.

First on the frames that choose; a plan that holds there meets a panel of frames that neither calibrated nor chose.
Where one fails, the budget shrinks and more nodes return to floating point, until a plan holds or INT8 is no longer
worth its name. A panel that refused a plan has told what to change: it joins the frames that choose, and the next plan
meets the next panel. Whoever asked may have a gate of their own, say what it refused, and ask for the next plan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.calib.choice.plan import BUDGET_SHARE, Int8Plan, Planner, demote
from brixel_edge.calib.lowering.targets import GRAPH_NAMES, Int8Target, IntegerWriter
from brixel_edge.calib.proof import Judge, Proven
from brixel_edge.errors import BuildError, ParityError

log = logging.getLogger(__name__)

SHRINK = 0.7
MIN_INT8_SHARE = 0.3  # of the weighted multiply-accumulates; with less, INT8 cannot pay for its own rounding
MIN_BUDGET = 1e-4  # nodes that cost less than that of the allowed loss explain no refusal
MAX_REFUSED_SHARE = 0.25  # of the nodes; more that a backend runs in float means that the lowering is wrong for it


@dataclass(frozen=True, kw_only=True)
class Found:
    """A plan that holds; its graphs are written.

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


class PlanSearch:
    """The search, one plan that holds after another, each with fewer nodes in INT8 than the one before.

    Args:
        planner: makes the plan of a budget.
        writer: of the graphs.
        choice: the frames that choose.
        panels: frames that judge, one panel after another.
        targets: backends; a plan must hold on each.
        out_dir: where the graphs are written.
    """

    def __init__(
        self,
        planner: Planner,
        writer: IntegerWriter,
        choice: Judge,
        panels: Iterator[Judge],
        targets: Sequence[Int8Target],
        out_dir: Path,
    ) -> None:
        self._planner, self._choice, self._panels = planner, choice, panels
        self._bench = Workbench(writer=writer, paths={target: out_dir / GRAPH_NAMES[target] for target in targets})
        self._panel, self._used = next(panels), 0
        self._budget, self._rounds = BUDGET_SHARE, 0
        self._refused: frozenset[str] = frozenset()
        self._tried: frozenset[str] | None = None
        self._shortfalls: list[str] = []

    def next_plan(self, refusal: str = "") -> Found:
        """The next plan that holds here.

        Args:
            refusal: what another gate said of the plan before.

        Raises:
            ParityError: none is left; the graphs are removed.
            BuildError: a backend runs the lowering in floating point.
        """
        self._shortfalls = [refusal] if refusal else []
        while True:
            plan = self._untried()
            self._shortfalls = self._bench.proven(self._choice, plan)[1]
            if not self._shortfalls:
                proven, self._shortfalls = self._bench.proven(self._panel, plan)
                if not self._shortfalls:
                    return Found(
                        plan=plan, proven=proven, judge=self._panel, rounds=self._rounds, panels=self._used + 1
                    )
                self._take_next_panel()
            log.info("INT8 with %d nodes: %s", len(plan.integers), "; ".join(self._shortfalls))

    def _untried(self) -> Int8Plan:
        """The plan of the largest smaller budget that is another than the last one."""
        while True:
            plan = _without(self._refused, self._planner.within(self._budget))
            if plan.int8_macs_share < MIN_INT8_SHARE:
                share = f"{1 - MIN_INT8_SHARE:.0%} of the work in floating point"
                raise self._bench.given_up(f"INT8 misses its bounds even with {share}", self._shortfalls)
            if self._budget < MIN_BUDGET:
                raise self._bench.given_up("INT8 misses its bounds by nodes that cost nothing alone", self._shortfalls)
            self._budget *= SHRINK
            if plan.integers != self._tried:
                break
        self._rounds += 1
        if "openvino" in self._bench.paths:
            self._refused |= _refused(plan, self._bench.write("openvino", plan), self._choice)
            plan = _without(self._refused, plan)
        self._tried = plan.integers
        return plan

    def _take_next_panel(self) -> None:
        self._choice, self._used = self._choice.joined(self._panel), self._used + 1
        panel = next(self._panels, None)
        if panel is None:
            raise self._bench.given_up(
                f"INT8 missed its bounds on all {self._used} panels of judging frames", self._shortfalls
            )
        self._panel = panel


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """Where the graphs of a plan are written and run."""

    writer: IntegerWriter
    paths: Mapping[Int8Target, Path]

    def write(self, target: Int8Target, plan: Int8Plan) -> Path:
        """A target's graph."""
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
