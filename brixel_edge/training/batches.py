"""From a plan of photographs to batches of pixels, decoded ahead by threads.

Pillow and numpy release the interpreter while they decode and resize, so threads are enough and nothing is copied
between processes. What a batch holds depends on seed and position only, never on which thread was faster.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import DataError
from brixel_edge.image.resize import resize_image
from brixel_edge.training.epochs import epoch_batches
from brixel_edge.training.photograph_index import PhotographIndex, Tally
from brixel_edge.training.photograph_stream import StreamedPhotographs, StreamPosition
from brixel_edge.training.photographs import UnusablePhotograph, photograph_view
from brixel_edge.training.teacher_cache import TeacherCache
from brixel_edge.training.views import SCALE, ViewSettings, crop_box, teacher_size

logger = logging.getLogger(__name__)

Size = tuple[int, int]
Position = dict[str, int]
"""Where a run goes on: plain numbers, kept in its checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One photograph, ready.

    Attributes:
        name: for messages.
        student: (H, W, 3) uint8 RGB, or (4H, 4W, 3) for a student that takes the full frame.
        teacher: (4H, 4W, 3) uint8 RGB; None where the cache had its map.
        target: (D, h, w) fp16 from the cache, or None.
        cache_key: where the map is to be kept, or None.
    """

    name: str
    student: NDArray[np.uint8]
    teacher: NDArray[np.uint8] | None
    target: NDArray[np.float16] | None = None
    cache_key: str | None = None


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
class SampleMaker:
    """Makes both views of an encoded photograph.

    Attributes:
        views: of the run.
        cache: of the teacher's maps, or None.
        student_scale: 4 for a student that takes the full frame and makes the backbone's view itself.
    """

    views: ViewSettings
    cache: TeacherCache | None = None
    student_scale: int = 1

    def sample(self, data: bytes, name: str, size: Size, key: Sequence[int]) -> Sample:
        """Decode a photograph.

        Args:
            data: encoded.
            name: for messages.
            size: the student's (height, width) [px].
            key: seeds what is random about the view.

        Raises:
            UnusablePhotograph: it cannot be shown.
        """
        random = np.random.default_rng(tuple(key)) if self.views.is_random else None
        is_mirrored = random is not None and self.views.flips and random.random() < 0.5
        cache_key = None
        if self.cache is not None:
            view = f"{size[0]}x{size[1]} centre mirrored={is_mirrored} student x{self.student_scale}"
            cache_key = self.cache.key(data, view)
            if (hit := self.cache.get(cache_key)) is not None:
                return Sample(name=name, student=hit.student, teacher=None, target=hit.target, cache_key=cache_key)
        height, width = teacher_size(size)
        view = photograph_view(data, height, width, lambda h, w: crop_box(h, w, size, self.views, random))
        view = view[:, ::-1] if is_mirrored else view
        student = resize_image(view, self.student_scale * size[0], self.student_scale * size[1])
        return Sample(name=name, student=student, teacher=view, cache_key=cache_key)


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What the threads do for one batch: one call a photograph."""

    size: Size
    jobs: tuple[Callable[[], Sample], ...]
    after: Position


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

    def plans(self, position: Position) -> Iterator[LoadPlan]:
        """Without end, from a position `{epoch, batch}` on; {} is the beginning."""
        epoch, first = position.get("epoch", 0), position.get("batch", 0)
        while True:
            batches = epoch_batches(self.eligible, self._batch, self._seed, epoch)
            for number in range(first, len(batches)):
                size = self._maker.views.sizes[batches[number].size_index]
                part = batches[number].part(self._rank, self._world)
                jobs = tuple(partial(self._load, int(place), size, epoch) for place in part)
                yield LoadPlan(size=size, jobs=jobs, after={"epoch": epoch, "batch": number + 1})
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

    def plans(self, position: Position) -> Iterator[LoadPlan]:
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
            yield LoadPlan(size=size, jobs=jobs, after={**asdict(items[-1].after), "batch": number})

    def _load(self, data: bytes, name: str, size: Size, key: Sequence[int]) -> Sample:
        try:
            return self._maker.sample(data, name, size, key)
        except UnusablePhotograph as problem:
            if self.tally.add(problem.reason, name):
                logger.warning("%s: %s; left out", name, problem.reason)
            raise


def validation_plans(
    index: PhotographIndex, maker: SampleMaker, *, batch: int, limit: int, rank: int = 0, world: int = 1
) -> list[LoadPlan]:
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
    return [LoadPlan(size=size, jobs=tuple(partial(load, place) for place in chunk), after={}) for chunk in chunks]


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


def _assembled(futures: Sequence[Future[Sample]], plan: LoadPlan, is_filled: bool) -> Batch | None:
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
    return batch_from_samples(good, plan.after)


def prefetched(
    plans: Iterator[LoadPlan], workers: int, depth: int, is_filled: bool = True
) -> Generator[Batch, None, None]:
    """Batches in the order of their plans, the next `depth` of them being decoded meanwhile.

    Args:
        plans: what to load; read ahead of what is yielded.
        workers: decoding threads.
        depth: batches under way at a time; this bounds the memory.
        is_filled: keep a batch's size: a photograph of the batch takes the place of one that could not be used.
    """
    with ThreadPoolExecutor(workers, "decode") as decoders, ThreadPoolExecutor(1, "assemble") as assembler:
        pending: deque[Future[Batch | None]] = deque()

        def submit(plan: LoadPlan) -> None:
            futures = [decoders.submit(job) for job in plan.jobs]
            pending.append(assembler.submit(_assembled, futures, plan, is_filled))

        try:
            for plan in islice(plans, depth):
                submit(plan)
            while pending:
                batch = pending.popleft().result()
                for plan in islice(plans, 1):
                    submit(plan)
                if batch is not None:
                    yield batch
        finally:
            decoders.shutdown(wait=False, cancel_futures=True)
            assembler.shutdown(wait=False, cancel_futures=True)
