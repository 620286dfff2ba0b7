"""The plan: which node runs in INT8, with what range, and why the others do not; and the curve between all and none.

One plan serves every backend. It is a readable file that depends on nothing but the graph, the frames and the seed:
no times, no paths, so the same inputs give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from brixel_edge.calib.choice.sensitivity import Effect
from brixel_edge.calib.layers import Layer
from brixel_edge.calib.proof import Bounds
from brixel_edge.calib.ranges.calibration import Calibration
from brixel_edge.machine.files import write_atomically

PLAN_VERSION = 1
MAX_NMSE = 0.03  # a node that alone does more is outside the range where effects add up
BUDGET_SHARE = 0.8
NodePrecision = Literal["int8", "float"]


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """The verdict on one node.

    Attributes:
        name: of the node in the float graph.
        op: its kind.
        precision: what it runs in.
        reason: why it stays in floating point; "" for INT8.
        x: tensor that it reads in the float graph.
        act_scale: symmetric INT8 scale of that tensor after smoothing; None where it was not calibrated.
        act_low: smallest value, after smoothing.
        act_high: largest value, after smoothing.
        macs: multiply-accumulates per image.
        loss: output -> what it alone takes from the mean cosine.
        nmse: output -> squared error by squared norm that it alone gives.
    """

    name: str
    op: str
    precision: NodePrecision
    reason: str
    x: str
    act_scale: float | None
    act_low: float | None
    act_high: float | None
    macs: int
    loss: Mapping[str, float]
    nmse: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """One state on the way from all-integer to all-float.

    Attributes:
        to_float: the node that left INT8 in this step; "" for the start.
        int8_nodes: left in INT8.
        int8_macs_share: share of all weighted multiply-accumulates that they do.
        cosine: predicted mean cosine by output.
    """

    to_float: str
    int8_nodes: int
    int8_macs_share: float
    cosine: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Int8Plan:
    """Precision of every node of one float graph.

    Attributes:
        graph_sha256: of the float graph.
        seed: of frames and samples.
        bounds: asked for.
        budget_share: share of the allowed loss that the prediction may use; shrunk until the gate held.
        nodes: all linears and convolutions, in running order.
        groups: smoothing decisions: tensor, kind, alpha, gain [dB].
        pareto: predicted curve.
    """

    graph_sha256: str
    seed: int
    bounds: Bounds
    budget_share: float
    nodes: tuple[NodePlan, ...]
    groups: tuple[Mapping[str, str | float | None], ...]
    pareto: tuple[ParetoPoint, ...]

    @property
    def integers(self) -> frozenset[str]:
        """Names of the nodes in INT8."""
        return frozenset(node.name for node in self.nodes if node.precision == "int8")

    @property
    def int8_macs_share(self) -> float:
        """Share of all weighted multiply-accumulates that run in INT8."""
        total = sum(node.macs for node in self.nodes)
        return sum(node.macs for node in self.nodes if node.precision == "int8") / max(total, 1)

    def save(self, path: Path) -> None:
        """Write the readable file."""
        write_atomically(path, json.dumps({"plan_version": PLAN_VERSION, **asdict(self)}, indent=1) + "\n")


def fallback_order(layers: Sequence[Layer], effects: Mapping[str, Effect], bounds: Bounds) -> list[str]:
    """Nodes in the order in which they would leave INT8: most loss per multiply-accumulate first.

    Nodes outside the linear range come before all others. The prediction concerns the mean; all outputs share one
    bound, so the worst output of a node counts.
    """
    costs = {layer.name: max(layer.macs, 1) for layer in layers}

    def urgency(name: str) -> tuple[bool, float]:
        effect = effects[name]
        return max(effect.nmse.values()) > MAX_NMSE, max(effect.loss.values()) / (1 - bounds.mean) / costs[name]

    return sorted((layer.name for layer in layers if layer.name in effects), key=urgency, reverse=True)


def pareto_curve(
    layers: Sequence[Layer], effects: Mapping[str, Effect], order: Sequence[str]
) -> tuple[ParetoPoint, ...]:
    """Predicted cosines while the nodes of `order` leave INT8 one after another: 1 - sum of the losses that remain."""
    macs = {layer.name: layer.macs for layer in layers}
    total = max(sum(macs.values()), 1)
    outputs = sorted({name for effect in effects.values() for name in effect.loss})
    points = []
    for count in range(len(order) + 1):
        left = order[count:]
        points.append(
            ParetoPoint(
                to_float=order[count - 1] if count else "",
                int8_nodes=len(left),
                int8_macs_share=sum(macs[name] for name in left) / total,
                cosine={output: 1 - sum(effects[name].loss[output] for name in left) for output in outputs},
            )
        )
    return tuple(points)


@dataclass(frozen=True, kw_only=True)
class Planner:
    """What plans are made of: the layers of a graph, their ranges, what each costs alone, and the bounds."""

    layers: Sequence[Layer]
    calibration: Calibration
    effects: Mapping[str, Effect]
    bounds: Bounds

    def within(self, budget_share: float) -> Int8Plan:
        """The plan whose prediction uses a share of the allowed loss; see `make_plan`."""
        return make_plan(self.layers, self.calibration, self.effects, self.bounds, budget_share=budget_share)


def make_plan(
    layers: Sequence[Layer], calibration: Calibration, effects: Mapping[str, Effect], bounds: Bounds, *,
    budget_share: float = BUDGET_SHARE,
) -> Int8Plan:  # fmt: skip
    """The fewest nodes in floating point, by predicted loss per cost, that keep every output in its budget."""
    order = fallback_order(layers, effects, bounds)
    pareto = pareto_curve(layers, effects, order)
    forced = sum(max(effects[name].nmse.values()) > MAX_NMSE for name in order)
    lowest = 1 - (1 - bounds.mean) * budget_share
    count = next(
        (k for k, point in enumerate(pareto) if k >= forced and min(point.cosine.values()) >= lowest), len(order)
    )
    given_up = {
        name: "outside the range where effects add up" if k < forced else "sensitivity"
        for k, name in enumerate(order[:count])
    }
    return Int8Plan(
        graph_sha256=calibration.graph_sha256,
        seed=calibration.seed,
        bounds=bounds,
        budget_share=budget_share,
        nodes=tuple(_node_plan(layer, calibration, effects.get(layer.name), given_up) for layer in layers),
        groups=tuple(
            {"x": entry.group.x, "kind": entry.group.kind, "alpha": entry.alpha, "gain_db": entry.gain_db}
            for entry in calibration.smoothing
        ),
        pareto=pareto,
    )


def _node_plan(layer: Layer, calibration: Calibration, effect: Effect | None, given_up: Mapping[str, str]) -> NodePlan:
    reason = layer.excluded or given_up.get(layer.name, "")
    seen = calibration.ranges.get(layer.x)
    return NodePlan(
        name=layer.name,
        op=layer.op,
        precision="float" if reason else "int8",
        reason=reason,
        x=layer.x,
        act_scale=seen.scale if seen else None,
        act_low=seen.low if seen else None,
        act_high=seen.high if seen else None,
        macs=layer.macs,
        loss=dict(effect.loss) if effect else {},
        nmse=dict(effect.nmse) if effect else {},
    )


def demote(plan: Int8Plan, names: Iterable[str], reason: str) -> Int8Plan:
    """The plan with further nodes in floating point, for a reason that sensitivity does not know."""
    moved = set(names)
    nodes = tuple(
        dataclasses.replace(node, precision="float", reason=reason) if node.name in moved else node
        for node in plan.nodes
    )
    return dataclasses.replace(plan, nodes=nodes)
