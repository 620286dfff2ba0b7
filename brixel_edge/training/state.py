"""How far a run is: what a checkpoint holds, and going on from one."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.json_form import fields_from_json, fields_to_json
from brixel_edge.training.checkpoints import checkpoint_files, last_checkpoint, save_checkpoint
from brixel_edge.training.facts import Scores
from brixel_edge.training.prefetch import Position
from brixel_edge.training.processes import Processes
from brixel_edge.training.settings import differing
from brixel_edge.training.setup import Run

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"


@dataclass(kw_only=True)
class RunState:
    """How far a run is.

    Attributes:
        step: steps done.
        position: of the next batch, in this process.
        best: lowest validation total so far.
        best_step: when that was; -1 before any.
        best_weights: of the refiner then, on the CPU.
        evaluations: all so far, as in the record.
        seconds: spent training, up to the checkpoint that was gone on from.
    """

    step: int = 0
    position: Position = field(default_factory=dict)
    best: float = math.inf
    best_step: int = -1
    best_weights: dict[str, Tensor] | None = None
    evaluations: list[Scores] = field(default_factory=list)
    seconds: float = 0.0


def save_state(run: Run, state: RunState, seconds: float) -> None:
    """Write a checkpoint; called by every process, written by the first.

    Args:
        run: gives weights and optimiser.
        state: as it is now.
        seconds: spent training in all parts of the run.
    """
    positions = run.processes.gather(state.position)
    if not run.processes.is_first:
        return
    content = {
        "defining": run.defining,
        "refiner": run.distiller.refiner.state_dict(),
        "optimiser": run.distiller.optimiser.state_dict(),
        "rng": torch.get_rng_state(),
        "positions": positions,
        "step": state.step,
        "best": state.best,
        "best_step": state.best_step,
        "best_weights": state.best_weights,
        "evaluations": [fields_to_json(scores) for scores in state.evaluations],
        "seconds": seconds,
    }
    save_checkpoint(run.settings.out / CHECKPOINTS, state.step, content)


def restored_state(run: Run) -> RunState:
    """The beginning, or, where the settings ask to resume, the last checkpoint, loaded into weights and optimiser.

    Raises:
        SpecError: an earlier run that is not to be resumed; streams that other processes read.
        BundleError: a checkpoint of other settings; only damaged ones.
    """
    out = run.settings.out
    if not run.settings.is_resumed:
        if checkpoint_files(out / CHECKPOINTS):
            raise SpecError(f"{out} holds an earlier run; add --resume to go on with it, or choose another --out")
        return RunState()
    content = last_checkpoint(out / CHECKPOINTS)
    if content is None:
        logger.warning("%s has no checkpoint; starting at the beginning", out)
        return RunState()
    if changed := differing(run.defining, content["defining"]):
        raise BundleError(f"{out} was begun with other settings ({'; '.join(changed)}); use those or another --out")
    run.distiller.refiner.load_state_dict(content["refiner"])
    run.distiller.optimiser.load_state_dict(content["optimiser"])
    torch.set_rng_state(content["rng"])
    logger.warning("going on at step %d of %d", content["step"], run.total_steps)
    return RunState(
        step=content["step"],
        position=_position(content["positions"], run.processes),
        best=content["best"],
        best_step=content["best_step"],
        best_weights=content.get("best_weights"),  # runs begun before 2026-11-21 have them in their adapter file only
        evaluations=[fields_from_json(Scores, scores, "evaluations") for scores in content["evaluations"]],
        seconds=content["seconds"],
    )


def _position(positions: list[Position], processes: Processes) -> Position:
    if "shard" not in positions[0]:
        return positions[0]  # an epoch's order is the same for any number of processes
    if len(positions) != processes.world:
        raise SpecError(
            f"streamed data was read by {len(positions)} processes, now there are {processes.world}; use as many"
        )
    return positions[processes.rank]
