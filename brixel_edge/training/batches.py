"""Which photographs make the next batch: of an index in a planned order, of streamed shards, of those held out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice

import numpy as np

from brixel_edge.errors import DataError
from brixel_edge.training.epochs import epoch_batches
from brixel_edge.training.photograph_index import PhotographIndex, Tally
from brixel_edge.training.photograph_stream import StreamedPhotographs, StreamPosition
from brixel_edge.training.photographs import UnusablePhotograph
from brixel_edge.training.prefetch import BatchJobs, Position
from brixel_edge.training.samples import Sample, SampleMaker
from brixel_edge.training.views import SCALE, Size

logger = logging.getLogger(__name__)


class IndexedData:
    """Photographs in any order: epochs of a plan, this process's part of each batch.

    Args:
        index: all photographs.
        maker: makes the views.
        batch: photographs a step, over all processes.
        seed: of the run.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self, index: PhotographIndex, maker: SampleMaker, *, batch: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self._index, self._maker, self._batch, self._seed = index, maker, batch, seed
        self._rank, self._world = rank, world
        self.eligible = index.eligible(maker.views.sizes, maker.views.max_upscale)
        self.tally = Tally()

    def batches(self, position: Position) -> Iterator[BatchJobs]:
        """Without end, from a position `{epoch, batch}` on; {} is the beginning."""
        epoch, first = position.get("epoch", 0), position.get("batch", 0)
        while True:
            planned = epoch_batches(self.eligible, self._batch, self._seed, epoch)
            for number in range(first, len(planned)):
                size = self._maker.views.sizes[planned[number].size_index]
                part = planned[number].part(self._rank, self._world)
                jobs = tuple(partial(self._load, int(place), size, epoch) for place in part)
                yield BatchJobs(jobs=jobs, after={"epoch": epoch, "batch": number + 1})
            epoch, first = epoch + 1, 0

    def steps_in(self, epochs: int) -> int:
        """The number of batches in the first epochs."""
        return sum(len(epoch_batches(self.eligible, self._batch, self._seed, epoch)) for epoch in range(epochs))

    def _load(self, place: int, size: Size, epoch: int) -> Sample:
        # A photograph that turns out damaged is replaced by the next one that is not: the same one in every process.
        for step in range(len(self._index)):
            photograph = self._index.photographs[(place + step) % len(self._index)]
            try:
                key = (self._seed, epoch, place)
                return self._maker.sample(photograph.read(), photograph.name, size, key)
            except UnusablePhotograph as problem:
                if self.tally.add(problem.reason, photograph.name):
                    logger.warning("%s: %s; another photograph takes its place", photograph.name, problem.reason)
        raise DataError(f"none of {len(self._index)} photographs can be shown at {size[0]}x{size[1]}: {self.tally}")


class StreamedData:
    """Photographs in the order in which shards deliver them.

    Args:
        stream: this process's shards.
        maker: makes the views.
        share: photographs a step in this process.
        seed: of the run; draws each step's size, the same in every process.
    """

    def __init__(self, stream: StreamedPhotographs, maker: SampleMaker, *, share: int, seed: int) -> None:
        self._stream, self._maker, self._share, self._seed = stream, maker, share, seed
        self.tally = Tally()

    def batches(self, position: Position) -> Iterator[BatchJobs]:
        """Without end, from a position `{epoch, shard, sample, batch}` on; {} is the beginning."""
        number = position.get("batch", 0)
        start = StreamPosition(**{key: value for key, value in position.items() if key != "batch"})
        photographs = self._stream.photographs(start)
        while True:
            drawn = np.random.default_rng((self._seed, number)).integers(len(self._maker.views.sizes))
            size = self._maker.views.sizes[int(drawn)]
            items = list(islice(photographs, self._share))
            jobs = tuple(
                partial(self._load, item.data, item.name, size, (self._seed, *asdict(item.position).values()))
                for item in items
            )
            number += 1
            yield BatchJobs(jobs=jobs, after={**asdict(items[-1].after), "batch": number})

    def _load(self, data: bytes, name: str, size: Size, key: Sequence[int]) -> Sample:
        try:
            return self._maker.sample(data, name, size, key)
        except UnusablePhotograph as problem:
            if self.tally.add(problem.reason, name):
                logger.warning("%s: %s; left out", name, problem.reason)
            raise


def validation_batches(
    index: PhotographIndex, maker: SampleMaker, *, batch: int, limit: int, rank: int = 0, world: int = 1
) -> list[BatchJobs]:
    """This process's held-out photographs, each once, at the first size of the run.

    Args:
        index: of the held-out photographs.
        maker: makes the views; nothing about them may be random.
        batch: photographs at a time.
        limit: at most so many over all processes, evenly spread over the index.
        rank: of this process.
        world: number of processes.

    Raises:
        DataError: none is large enough.
    """
    size = maker.views.sizes[0]
    usable = np.flatnonzero(index.eligible([size], maker.views.max_upscale)[:, 0])
    if not len(usable):
        raise DataError(
            f"none of {len(index)} held-out photographs fills the teacher's view of {SCALE * size[0]}x{SCALE * size[1]}"
            "; lower --size, or allow enlarging with --max-upscale"
        )
    spread = usable[np.linspace(0, len(usable) - 1, min(limit, len(usable))).round().astype(np.int64)]

    def load(place: int) -> Sample:
        photograph = index.photographs[place]
        return maker.sample(photograph.read(), photograph.name, size, ())

    mine = [int(place) for place in spread[rank::world]]
    chunks = [mine[start : start + batch] for start in range(0, len(mine), batch)]
    return [BatchJobs(jobs=tuple(partial(load, place) for place in chunk), after={}) for chunk in chunks]
