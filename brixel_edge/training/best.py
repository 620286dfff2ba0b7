"""The weights of the best evaluation so far: kept, and written as the run's adapter file."""

from __future__ import annotations

import logging
import math

from brixel_edge.errors import TrainingError
from brixel_edge.training.record import adapter_facts
from brixel_edge.training.results import write_adapter
from brixel_edge.training.setup import Run
from brixel_edge.training.state import RunState

logger = logging.getLogger(__name__)


class BestWeights:
    """Keeps them in the state of the run, in every process; the first process writes them.

    Args:
        run: gives the refiner.
        state: of the run; perhaps with the best weights of its earlier part, which are then written again.
    """

    def __init__(self, run: Run, state: RunState) -> None:
        self._run, self._state = run, state
        self._is_written = state.best_weights is None

    def consider(self, total: float) -> None:
        """Keep and write the present weights if this validation total is the lowest so far."""
        state = self._state
        if not math.isfinite(total):
            logger.warning("the evaluation at step %d is not a number (total %s); not kept", state.step, total)
        elif total < state.best:
            state.best, state.best_step = total, state.step
            weights = self._run.distiller.refiner.state_dict()
            state.best_weights = {key: value.detach().cpu().clone() for key, value in weights.items()}
            self._is_written = self._write(is_last=False)

    def finish(self) -> None:
        """Make sure at the end that there are weights and that they are on the disk.

        Raises:
            TrainingError: no evaluation gave a number; or the weights could not be written.
        """
        if self._state.best_step < 0:
            raise TrainingError(
                f"none of {len(self._state.evaluations)} evaluations gave a number, so no weights were kept; lower "
                "--learning-rate, or look at the photographs of --val"
            )
        if not self._is_written:
            self._write(is_last=True)

    def _write(self, is_last: bool) -> bool:
        if not self._run.processes.is_first:
            return True
        settings, weights = self._run.settings, self._state.best_weights
        assert weights is not None
        facts = adapter_facts(self._run, self._state.best_step)
        return write_adapter(settings.out, weights, facts, settings.export_official, is_last)
