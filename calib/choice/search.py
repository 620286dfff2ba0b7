"""Plans with ever smaller budgets, each lowered for every target and proven there, until one holds.

If the gate fails on frames that nothing was fitted to, the budget shrinks and more nodes return to floating point,
until it holds or INT8 is no longer worth its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
        proven: one entry a target.
        rounds: plans that were lowered and proven.
    """

    plan: Int8Plan
    proven: tuple[Proven, ...]
    rounds: int


def first_plan_that_holds(
    plan_within: Callable[[float], Int8Plan],
    writer: IntegerWriter,
    judge: Judge,
    targets: Sequence[Int8Target],
    out_dir: Path,
) -> Found:
    """Search.

    Args:
        plan_within: the plan for a share of the allowed loss.
        writer: of the graphs.
        judge: of the graphs.
        targets: backends; the gate must hold on each, with one plan.
        out_dir: where the graphs stay.

    Raises:
        ParityError: none holds; the graphs are removed.
        BuildError: a backend runs the lowering in floating point.
    """
    paths: dict[Int8Target, Path] = {target: out_dir / GRAPH_NAMES[target] for target in targets}
    budget, rounds = BUDGET_SHARE, 0
    refused: frozenset[str] = frozenset()
    tried: frozenset[str] | None = None
    shortfalls: list[str] = []
    while True:
        plan = _without(refused, plan_within(budget))
        if plan.int8_macs_share < MIN_INT8_SHARE:
            for path in paths.values():
                path.unlink(missing_ok=True)
            raise ParityError(
                f"INT8 misses its bounds even with {1 - MIN_INT8_SHARE:.0%} of the work in floating point "
                f"({'; '.join(shortfalls) or 'single nodes lose too much'}); use a float engine, or other frames"
            )
        if plan.integers != tried:
            rounds += 1
            if "openvino" in paths:
                refused |= _refused(plan, writer.write("openvino", plan.integers, paths["openvino"]), judge)
                plan = _without(refused, plan)
            proven = tuple(
                judge.prove(target, writer.write(target, plan.integers, path), expected=len(plan.integers))
                for target, path in paths.items()
            )
            tried, shortfalls = plan.integers, [text for entry in proven for text in entry.shortfalls(plan.bounds)]
            if not shortfalls:
                return Found(plan=plan, proven=proven, rounds=rounds)
            log.info("INT8 with %d nodes: %s", len(plan.integers), "; ".join(shortfalls))
        budget *= SHRINK


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
