"""Which photographs are seen when: a pure function of seed and epoch, so that a run can stop and go on anywhere.

Every process computes the same order and takes its own part of each batch. Knows no files and no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import DataError


@dataclass(frozen=True, kw_only=True)
class EpochBatch:
    """One step's photographs, over all processes.

    Attributes:
        size_index: which of the run's student sizes; all photographs of a batch share it.
        photographs: (batch,) numbers of photographs.
    """

    size_index: int
    photographs: NDArray[np.int64]

    def part(self, rank: int, world: int) -> NDArray[np.int64]:
        """The photographs of one process; the parts in order of rank are the batch."""
        share = len(self.photographs) // world
        return self.photographs[rank * share : (rank + 1) * share]


def epoch_batches(eligible: NDArray[np.bool_], batch: int, seed: int, epoch: int) -> list[EpochBatch]:
    """The batches of an epoch, each photograph at most once; what does not fill a batch is left for another epoch.

    Args:
        eligible: (photographs, sizes), which photograph may be shown at which size.
        batch: photographs a step, over all processes.
        seed: of the run.
        epoch: from 0.

    Returns:
        in the order in which they are to be seen. Each photograph has one size an epoch, drawn among its eligible ones.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(eligible))
    # The k-th eligible size, k drawn evenly; photographs without any are in no batch.
    choices = eligible.sum(1)
    drawn = (random.random(len(eligible)) * choices).astype(np.int64)
    rank_of_size = np.where(eligible, eligible.cumsum(1) - 1, -1)
    ordered: list[tuple[int, EpochBatch]] = []
    for size_index in range(eligible.shape[1]):
        places = np.flatnonzero((rank_of_size[:, size_index] == drawn)[order])
        for start in range(0, len(places) - batch + 1, batch):
            chosen = places[start : start + batch]
            ordered.append((int(chosen[-1]), EpochBatch(size_index=size_index, photographs=order[chosen])))
    # A batch is seen when its last photograph's turn comes, so sizes mix evenly.
    return [chosen for _, chosen in sorted(ordered, key=lambda item: item[0])]


def check_batch(eligible: NDArray[np.bool_], batch: int, world: int, seed: int) -> None:
    """See that there is a first epoch, and that its batches can be shared.

    Raises:
        DataError: a batch that the processes cannot share evenly, or too few photographs for one.
    """
    if batch % world:
        raise DataError(f"batch {batch} does not divide among {world} processes; use {max(batch // world, 1) * world}")
    if not epoch_batches(eligible, batch, seed, 0):
        usable = int(eligible.any(1).sum())
        raise DataError(
            f"{usable} of {len(eligible)} photographs are large enough, too few for a batch of {batch} of one size; "
            "lower --batch or --size, or allow enlarging with --max-upscale"
        )
