"""Batches decoded ahead by threads.

Pillow and numpy release the interpreter while they decode and resize, so threads are enough and nothing is copied
between processes. What a batch holds depends on seed and position only, never on which thread was faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from brixel_edge.training.photographs import UnusablePhotograph
from brixel_edge.training.samples import Sample

Position = dict[str, int]
"""Where a run goes on: plain numbers, kept in its checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Photographs of one step in one process.

    Attributes:
        names: of the photographs.
        student: (B, H, W, 3) uint8 RGB, or (B, 4H, 4W, 3) of the full frame.
        teacher: (M, 4H, 4W, 3) uint8 RGB, of those photographs only whose map is not cached; None where all are.
        samples: of which it is made.
        after: position of the next batch.
    """

    names: tuple[str, ...]
    student: NDArray[np.uint8]
    teacher: NDArray[np.uint8] | None
    samples: tuple[Sample, ...]
    after: Position


@dataclass(frozen=True, kw_only=True)
class BatchJobs:
    """What the threads do for one batch: one call a photograph."""

    jobs: tuple[Callable[[], Sample], ...]
    after: Position


def batch_from_samples(samples: Sequence[Sample], after: Position) -> Batch:
    """Stack the photographs of a batch."""
    teachers = [sample.teacher for sample in samples if sample.teacher is not None]
    return Batch(
        names=tuple(sample.name for sample in samples),
        student=np.stack([sample.student for sample in samples]),
        teacher=np.stack(teachers) if teachers else None,
        samples=tuple(samples),
        after=after,
    )


def _assembled(futures: Sequence[Future[Sample]], after: Position, is_filled: bool) -> Batch | None:
    samples: list[Sample | None] = []
    for future in futures:
        try:
            samples.append(future.result())
        except UnusablePhotograph:
            samples.append(None)
    good = [sample for sample in samples if sample is not None]
    if not good:
        return None
    if is_filled:
        good = [sample if sample is not None else good[place % len(good)] for place, sample in enumerate(samples)]
    return batch_from_samples(good, after)


def prefetched(
    batches: Iterator[BatchJobs], workers: int, depth: int, is_filled: bool = True
) -> Generator[Batch, None, None]:
    """Batches in their order, the next `depth` of them being decoded meanwhile.

    Args:
        batches: what to load; read ahead of what is yielded.
        workers: decoding threads.
        depth: batches under way at a time; this bounds the memory.
        is_filled: keep a batch's size: a photograph of the batch takes the place of one that could not be used.
    """
    with ThreadPoolExecutor(workers, "decode") as decoders, ThreadPoolExecutor(1, "assemble") as assembler:
        pending: deque[Future[Batch | None]] = deque()

        def submit(batch: BatchJobs) -> None:
            futures = [decoders.submit(job) for job in batch.jobs]
            pending.append(assembler.submit(_assembled, futures, batch.after, is_filled))

        try:
            for batch in islice(batches, depth):
                submit(batch)
            while pending:
                ready = pending.popleft().result()
                for following in islice(batches, 1):
                    submit(following)
                if ready is not None:
                    yield ready
        finally:
            decoders.shutdown(wait=False, cancel_futures=True)
            assembler.shutdown(wait=False, cancel_futures=True)
