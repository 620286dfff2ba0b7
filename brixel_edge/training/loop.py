"""The training loop: batches in, adapter weights out.

What happens at a step depends on settings, data and step number only, so a run that was killed goes on from its last
checkpoint to the same weights. Knows no command line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing, nullcontext

from brixel_edge.machine.progress import progress
from brixel_edge.training.best import BestWeights
from brixel_edge.training.loss_watch import LossWatch
from brixel_edge.training.prefetch import prefetched
from brixel_edge.training.processes import joined_processes
from brixel_edge.training.record import Pace, TrainRecord, record_of
from brixel_edge.training.results import RunLog, write_record
from brixel_edge.training.settings import EVALUATIONS, TrainSettings, learning_rate_at
from brixel_edge.training.setup import Run, chosen_device, run_from_settings
from brixel_edge.training.state import RunState, restored_state, save_state
from brixel_edge.training.validation import Evaluation

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
"""Called with one line per evaluation."""


def train(settings: TrainSettings, say: Say | None = None) -> TrainRecord:
    """Train an adapter.

    Args:
        settings: of the run.
        say: called by the first process with one line per evaluation; None says nothing.

    Returns:
        the record, in every process; the first one writes it to `train.json`.

    Raises:
        BrixelError: bad data, settings or weights; a loss that is not a number; no evaluation that gave one; weights
            that cannot be written.
    """
    device = chosen_device(settings.device)
    with joined_processes(device) as processes:
        run = run_from_settings(settings, processes, device)
        state = restored_state(run)
        if run.warmup_steps >= run.total_steps:
            logger.warning(
                "all %d steps are warm-up at a tenth of the learning rate; give --warmup-steps, or more steps",
                run.total_steps,
            )
        pace, best = Pace(state.seconds), BestWeights(run, state)
        with _opened_log(run, state.step) as log:
            _train_steps(run, state, pace, best, log, say)
        record = record_of(run, state, pace)
        if processes.is_first:
            write_record(settings.out, record.to_json())
        best.finish()
        return record


def _opened_log(run: Run, step: int) -> closing[RunLog] | nullcontext[None]:
    """The first process's log; the others have none."""
    if not run.processes.is_first:
        return nullcontext()
    run.settings.out.mkdir(parents=True, exist_ok=True)
    return closing(RunLog(run.settings.out, step))


def _train_steps(run: Run, state: RunState, pace: Pace, best: BestWeights, log: RunLog | None, say: Say | None) -> None:
    """From the state to the last step, with evaluations and checkpoints on the way."""
    settings, total = run.settings, run.total_steps
    eval_every = settings.eval_every or max(1, total // EVALUATIONS)
    watch = LossWatch(run.processes, log)

    def note() -> str:
        terms = " ".join(f"{name} {value:.4f}" for name, value in watch.last.items())
        return f"{terms} {pace.images_per_s:.2f} images/s"

    steps = range(state.step, total)
    shown = progress(steps, "train", total=len(steps), note=note) if run.processes.is_first else steps
    with closing(prefetched(run.data.batches(state.position), settings.workers, settings.prefetch)) as batches:
        for step in shown:
            batch = next(batches)
            learning_rate = learning_rate_at(step, settings, run.warmup_steps, total)
            watch.add(batch, step, learning_rate, run.distiller.step(batch, step, learning_rate))
            pace.add(len(batch.names) * run.processes.world)
            state.step, state.position = step + 1, batch.after
            if _is_due(state.step, eval_every, total):
                watch.check()
                with pace.paused():
                    _evaluate(run, state, pace, best, log, say)
            if _is_due(state.step, settings.save_every, total):
                watch.check()
                save_state(run, state, pace.seconds)


def _is_due(step: int, every: int, total: int) -> bool:
    return step == total or step % every == 0


def _evaluate(run: Run, state: RunState, pace: Pace, best: BestWeights, log: RunLog | None, say: Say | None) -> None:
    result = run.validator.evaluate(run.distiller)
    state.evaluations.append(result.scores(state.step))
    best.consider(result.student["total"])
    if log:
        log.evaluation(state.step, result)
        write_record(run.settings.out, record_of(run, state, pace).to_json())
        if say:
            say(_evaluation_line(state.step, run.total_steps, result, pace))


def _evaluation_line(step: int, total: int, result: Evaluation, pace: Pace) -> str:
    student, baseline = result.student, result.baseline
    return (
        f"step {step} of {total}: cosine {student['cosine']:.4f} (bilinear {baseline['cosine']:.4f}), "
        f"total {student['total']:.4f} ({baseline['total']:.4f}), {pace.images_per_s:.2f} images/s"
    )
