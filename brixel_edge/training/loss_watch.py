"""The losses of a run as they come: summed over processes, written down, and a stop where one is not a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from brixel_edge.errors import TrainingError
from brixel_edge.training.prefetch import Batch
from brixel_edge.training.processes import Processes
from brixel_edge.training.results import RunLog

NAMES_SHOWN = 16


@dataclass(frozen=True, kw_only=True)
class StepLosses:
    """A step that has been computed, perhaps not yet to its end on a GPU.

    Attributes:
        step: from 0.
        names: of its photographs, in this process.
        learning_rate: it was made with.
        terms: of the loss, in this process.
    """

    step: int
    names: tuple[str, ...]
    learning_rate: float
    terms: dict[str, Tensor]


class LossWatch:
    """Looks at each step's losses when the next one is under way: a GPU then has that one to work on.

    Args:
        processes: of the run.
        log: where losses are written down; None in processes that write nothing.
    """

    def __init__(self, processes: Processes, log: RunLog | None) -> None:
        self._processes, self._log = processes, log
        self._waiting: StepLosses | None = None
        self.last: dict[str, float] = {}

    def add(self, batch: Batch, step: int, learning_rate: float, terms: dict[str, Tensor]) -> None:
        """Take a step's losses, after those of the step before have been looked at."""
        self.check()
        self._waiting = StepLosses(step=step, names=batch.names, learning_rate=learning_rate, terms=terms)

    def check(self) -> None:
        """Look at what was added last; nothing where that has been done.

        Raises:
            TrainingError: a loss that is not a number; says of which photographs.
        """
        if self._waiting is None:
            return
        seen, self._waiting = self._waiting, None
        summed = self._processes.sum(torch.stack(list(seen.terms.values()))).tolist()
        self.last = {name: value / self._processes.world for name, value in zip(seen.terms, summed, strict=True)}
        if not all(math.isfinite(value) for value in self.last.values()):
            raise TrainingError(self._complaint(seen))
        if self._log:
            self._log.losses(seen.step, seen.learning_rate, self.last)

    def _complaint(self, seen: StepLosses) -> str:
        names = [name for part in self._processes.gather(seen.names) for name in part]
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        values = ", ".join(f"{name} {value}" for name, value in self.last.items())
        return (
            f"the loss of step {seen.step} is not a number ({values}); its batch was "
            f"{', '.join(names[:NAMES_SHOWN])}{more}; lower --learning-rate, or look at these files"
        )
