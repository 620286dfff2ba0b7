"""What a run says of itself: its pace, the record `train.json`, and what its adapter file carries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from brixel_edge.model.json_form import fields_to_json
from brixel_edge.network.student import adapter_metadata
from brixel_edge.training.facts import RunFacts, Scores
from brixel_edge.training.results import tool_versions
from brixel_edge.training.settings import TrainSettings
from brixel_edge.training.setup import Run
from brixel_edge.training.state import RunState

RECORD_VERSION = 1


class Pace:
    """How long a run has taken, and how many photographs a second it trains on.

    Args:
        seconds_before: spent in earlier parts of the run.
    """

    def __init__(self, seconds_before: float = 0.0) -> None:
        self._seconds_before = seconds_before
        self._started_s, self._paused_s, self._images = time.monotonic(), 0.0, 0

    def add(self, images: int) -> None:
        """Count photographs of a step."""
        self._images += images

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not training."""
        since_s = time.monotonic()
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - since_s

    @property
    def seconds(self) -> float:
        """In all parts of the run, evaluations included."""
        return self._seconds_before + time.monotonic() - self._started_s

    @property
    def images_per_s(self) -> float:
        """In this part, evaluations excluded."""
        return self._images / max(time.monotonic() - self._started_s - self._paused_s, 1e-9)


def adapter_facts(run: Run, best_step: int) -> dict[str, object]:
    """What the adapter file says of itself: all that is needed to build it again, and where it comes from."""
    backbone = run.distiller.backbone
    return {
        **adapter_metadata(run.distiller.student),
        "patch_px": backbone.spec.patch_px,
        "trained": backbone.trained,
        "backbone": run.settings.backbone,
        "backbone_hash": run.facts.backbone_hash,
        "licence": backbone.spec.licence,
        "data_hash": run.facts.data.hash,
        "student_sizes": [list(size) for size in run.settings.views.sizes],
        "step": best_step,
    }


@dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """A run as `train.json` has it.

    Attributes:
        settings: of the run.
        facts: of data, backbone and machine.
        left_out_while_training: photographs that could not be decoded, by reason.
        licence: of the backbone's weights.
        is_backbone_trained: whether they are anybody's trained ones.
        parameters: of the adapter.
        total_steps: of the whole run.
        warmup_steps: of it.
        step: steps done.
        seconds: in all parts of the run, evaluations included.
        images_per_s: in this part, evaluations excluded.
        best_step: of the weights that were kept; -1 before any.
        evaluations: all so far.
        versions: of Python and packages.
    """

    settings: TrainSettings
    facts: RunFacts
    left_out_while_training: dict[str, int]
    licence: str
    is_backbone_trained: bool
    parameters: int
    total_steps: int
    warmup_steps: int
    step: int
    seconds: float
    images_per_s: float
    best_step: int
    evaluations: tuple[Scores, ...]
    versions: dict[str, str]

    @property
    def best(self) -> Scores | None:
        """The evaluation whose weights were kept; None before any."""
        return next((scores for scores in self.evaluations if scores.step == self.best_step), None)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; the facts stand beside the rest."""
        record = fields_to_json(self)
        facts = record.pop("facts")
        best = fields_to_json(self.best) if self.best is not None else None
        return {"record_version": RECORD_VERSION, **facts, **record, "best": best}


def record_of(run: Run, state: RunState, pace: Pace) -> TrainRecord:
    """The record of a run as far as it is."""
    backbone = run.distiller.backbone
    return TrainRecord(
        settings=run.settings,
        facts=run.facts,
        left_out_while_training=run.data.tally.counts,
        licence=backbone.spec.licence,
        is_backbone_trained=backbone.trained,
        parameters=sum(parameter.numel() for parameter in run.distiller.refiner.parameters()),
        total_steps=run.total_steps,
        warmup_steps=run.warmup_steps,
        step=state.step,
        seconds=round(pace.seconds, 3),
        images_per_s=round(pace.images_per_s, 3),
        best_step=state.best_step,
        evaluations=tuple(state.evaluations),
        versions=tool_versions(),
    )
