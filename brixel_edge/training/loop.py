"""The training loop: batches in, adapter weights out.

What happens at a step depends on settings, data and step number only, so a run that was killed goes on from its last
checkpoint to the same weights. Knows no command line.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from brixel_edge.errors import BundleError, SpecError, TrainingError
from brixel_edge.network.student import adapter_metadata
from brixel_edge.training.batches import Batch, Position, prefetched
from brixel_edge.training.checkpoints import checkpoint_files, last_checkpoint, save_checkpoint
from brixel_edge.training.photograph_index import Progress
from brixel_edge.training.processes import Processes, joined_processes
from brixel_edge.training.results import RunLog, tool_versions, write_adapter, write_record
from brixel_edge.training.settings import EVALUATIONS, TrainSettings, differing, learning_rate_at
from brixel_edge.training.setup import Run, chosen_device, run_from_settings

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
NAMES_SHOWN = 16


@dataclass(kw_only=True)
class State:
    """How far a run is.

    Attributes:
        step: steps done.
        position: of the next batch, in this process.
        best: lowest validation total so far.
        best_step: when that was.
        evaluations: all so far.
        seconds: spent training, in all parts of the run.
    """

    step: int = 0
    position: Position = field(default_factory=dict)
    best: float = math.inf
    best_step: int = -1
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def train(settings: TrainSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Train an adapter.

    Args:
        settings: of the run.
        progress: as tqdm; None shows nothing.

    Returns:
        the record that is also in `train.json`; `is_first` says whether this process writes results.

    Raises:
        BrixelError: bad data, settings or weights; a loss that is not a number; weights that cannot be written.
    """
    device = chosen_device(settings.device)
    with joined_processes(device) as processes:
        shown = progress if processes.is_first else None
        run = run_from_settings(settings, processes, device, shown)
        return _Trainer(run, shown).run()


class _Trainer:
    """One process's part of a run."""

    def __init__(self, run: Run, progress: Progress | None) -> None:
        self._run, self._progress = run, progress
        self._settings, self._processes = run.settings, run.processes
        self._checkpoints = run.settings.out / CHECKPOINTS
        refiner = run.distiller.student.refiner
        assert refiner is not None
        self._refiner = refiner
        self._state = State()
        self._log: RunLog | None = None
        self._pending: tuple[Batch, float, dict[str, Tensor]] | None = None
        self._shown: dict[str, float] = {}
        self._best_weights: dict[str, Tensor] | None = None
        self._is_written = True
        self._started_s = self._evaluating_s = 0.0
        self._images = 0

    def run(self) -> dict[str, Any]:
        """From the beginning, or from the last checkpoint, to the end."""
        self._restore()
        if self._processes.is_first:
            self._settings.out.mkdir(parents=True, exist_ok=True)
            self._log = RunLog(self._settings.out, self._state.step)
        if self._run.warmup_steps >= self._run.total_steps:
            logger.warning(
                "all %d steps are warm-up at a tenth of the learning rate; give --warmup-steps, or more steps",
                self._run.total_steps,
            )
        self._started_s = time.monotonic()
        try:
            self._steps()
        finally:
            if self._log:
                self._log.close()
        self._write_last()
        return {**self._record(), "is_first": self._processes.is_first}

    def _steps(self) -> None:
        run, state, settings = self._run, self._state, self._settings
        total = run.total_steps
        eval_every = settings.eval_every or max(1, total // EVALUATIONS)
        batches = prefetched(run.data.plans(state.position), settings.workers, settings.prefetch)
        bar: Any = (
            self._progress(total=total, initial=state.step, desc="train", unit="step") if self._progress else None
        )
        try:
            while state.step < total:
                batch = next(batches)
                learning_rate = learning_rate_at(state.step, settings, run.warmup_steps, total)
                terms = run.distiller.step(batch, state.step, learning_rate)
                # The step before is looked at only now: a GPU has this one to work on meanwhile.
                self._check_pending()
                self._pending = (batch, learning_rate, terms)
                state.step, state.position = state.step + 1, batch.after
                self._images += len(batch.names) * self._processes.world
                is_last = state.step == total
                if is_last or state.step % eval_every == 0:
                    self._check_pending()
                    self._evaluate()
                if is_last or state.step % settings.save_every == 0:
                    self._check_pending()
                    self._save()
                if bar is not None:
                    bar.set_postfix(self._postfix(), refresh=False)
                    bar.update()
        finally:
            batches.close()
            if bar is not None:
                bar.close()

    def _check_pending(self) -> None:
        """Note the loss of the last step, over all processes; stop where it is not a number."""
        if self._pending is None:
            return
        batch, learning_rate, terms = self._pending
        self._pending = None
        summed = self._processes.sum(torch.stack(list(terms.values()))).tolist()
        means = {name: value / self._processes.world for name, value in zip(terms, summed, strict=True)}
        step = self._state.step - 1
        if not all(math.isfinite(value) for value in means.values()):
            names = [name for part in self._processes.gather(batch.names) for name in part]
            shown = ", ".join(names[:NAMES_SHOWN]) + (
                f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            )
            values = ", ".join(f"{name} {value}" for name, value in means.items())
            raise TrainingError(
                f"the loss of step {step} is not a number ({values}); its batch was {shown}; lower --learning-rate, "
                "or look at these files"
            )
        self._shown = means
        if self._log:
            self._log.losses(step, learning_rate, means)

    def _images_per_s(self) -> float:
        return self._images / max(time.monotonic() - self._started_s - self._evaluating_s, 1e-9)

    def _postfix(self) -> dict[str, str]:
        return {**{name: f"{value:.4f}" for name, value in self._shown.items()}, "img/s": f"{self._images_per_s():.2f}"}

    def _evaluate(self) -> None:
        state, started_s = self._state, time.monotonic()
        result = self._run.validator.evaluate(self._run.distiller)
        state.evaluations.append({"step": state.step, **result.to_json()})
        if result.student["total"] < state.best:
            state.best, state.best_step = result.student["total"], state.step
            self._best_weights = {
                key: value.detach().cpu().clone() for key, value in self._refiner.state_dict().items()
            }
            if self._processes.is_first:
                self._is_written = self._write(is_last=False)
        if self._log:
            self._log.evaluation(state.step, result)
            write_record(self._settings.out, self._record())
        self._evaluating_s += time.monotonic() - started_s

    def _write(self, is_last: bool) -> bool:
        settings = self._settings
        refiner = copy.deepcopy(self._refiner).cpu()
        if self._best_weights is not None:
            refiner.load_state_dict(self._best_weights)
        return write_adapter(settings.out, refiner, self._metadata(), settings.export_official, is_last)

    def _write_last(self) -> None:
        if not self._processes.is_first:
            return
        if not self._is_written:
            self._write(is_last=True)
        write_record(self._settings.out, self._record())

    # ---- checkpoints ----

    def _save(self) -> None:
        state = self._state
        positions = self._processes.gather(state.position)
        if not self._processes.is_first:
            return
        content = {
            "defining": self._run.defining,
            "refiner": self._refiner.state_dict(),
            "optimiser": self._run.distiller.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "positions": positions,
            "step": state.step,
            "best": state.best,
            "best_step": state.best_step,
            "evaluations": state.evaluations,
            "seconds": self._seconds(),
        }
        save_checkpoint(self._checkpoints, state.step, content)

    def _restore(self) -> None:
        if not self._settings.is_resumed:
            if checkpoint_files(self._checkpoints):
                raise SpecError(
                    f"{self._settings.out} holds an earlier run; add --resume to go on with it, or choose another --out"
                )
            return
        content = last_checkpoint(self._checkpoints)
        if content is None:
            logger.warning("%s has no checkpoint; starting at the beginning", self._settings.out)
            return
        changed = differing(self._run.defining, content["defining"])
        if changed:
            raise BundleError(
                f"{self._settings.out} was begun with other settings ({'; '.join(changed)}); use those or another --out"
            )
        self._refiner.load_state_dict(content["refiner"])
        self._run.distiller.optimiser.load_state_dict(content["optimiser"])
        torch.set_rng_state(content["rng"])
        self._state = State(
            step=content["step"],
            position=_position(content["positions"], self._processes),
            best=content["best"],
            best_step=content["best_step"],
            evaluations=content["evaluations"],
            seconds=content["seconds"],
        )
        logger.warning("going on at step %d of %d", self._state.step, self._run.total_steps)

    # ---- records ----

    def _seconds(self) -> float:
        return self._state.seconds + time.monotonic() - self._started_s

    def _metadata(self) -> dict[str, Any]:
        backbone = self._run.distiller.backbone
        return {
            **adapter_metadata(self._run.distiller.student),
            "patch_px": backbone.spec.patch_px,
            "trained": backbone.trained,
            "backbone": self._settings.backbone,
            "backbone_hash": self._run.facts["backbone_hash"],
            "licence": backbone.spec.licence,
            "data_hash": self._run.facts["data"]["hash"],
            "student_sizes": [list(size) for size in self._settings.views.sizes],
            "step": max(self._state.best_step, 0),
        }

    def _record(self) -> dict[str, Any]:
        state, backbone = self._state, self._run.distiller.backbone
        return {
            "record_version": 1,
            "settings": self._settings.to_json(),
            **self._run.facts,
            "left_out_while_training": self._run.data.tally.counts,
            "licence": backbone.spec.licence,
            "is_backbone_trained": backbone.trained,
            "parameters": sum(parameter.numel() for parameter in self._refiner.parameters()),
            "total_steps": self._run.total_steps,
            "warmup_steps": self._run.warmup_steps,
            "step": state.step,
            "seconds": round(self._seconds(), 3),
            "images_per_s": round(self._images_per_s(), 3),
            "best_step": state.best_step,
            "best": next((item for item in state.evaluations if item["step"] == state.best_step), None),
            "evaluations": state.evaluations,
            "versions": tool_versions(),
        }


def _position(positions: list[Position], processes: Processes) -> Position:
    if "shard" not in positions[0]:
        return positions[0]  # a plan is the same for any number of processes
    if len(positions) != processes.world:
        raise SpecError(
            f"streamed data was read by {len(positions)} processes, now there are {processes.world}; use as many"
        )
    return positions[processes.rank]
