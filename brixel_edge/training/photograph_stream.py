"""Photographs of tar shards that are only ever read forward: over HTTP, from a command's output, compressed.

Each process reads its own shards. The order is a pure function of seed and epoch: shards are permuted, and within a
shard the photographs of a window are. A position (epoch, shard, sample) is all that is needed to go on.
"""

from __future__ import annotations

import http.client
import logging
import shlex
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from brixel_edge.errors import DataError, SourceError
from brixel_edge.training.photograph_index import SHARD_IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

PIPE = "pipe:"
HTTP = ("http://", "https://")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
WINDOW = 256
ATTEMPTS = 4
TIMEOUT_S = 60.0


def is_streamed(source: str) -> bool:
    """Whether a source can only be read forward."""
    return source.startswith((PIPE, *HTTP)) or source.endswith(COMPRESSED)


@dataclass(frozen=True, kw_only=True)
class StreamPosition:
    """The next sample to be read by a process.

    Attributes:
        epoch: from 0.
        shard: place in the epoch's order of this process's shards.
        sample: place within the shard, after shuffling.
    """

    epoch: int = 0
    shard: int = 0
    sample: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamedPhotograph:
    """A photograph's bytes and where to go on after it."""

    name: str
    data: bytes
    position: StreamPosition
    after: StreamPosition


@contextmanager
def _opened(shard: str) -> Iterator[IO[bytes]]:
    if shard.startswith(PIPE):
        # An argument list, no shell: for pipelines write pipe:sh -c '...'.
        with subprocess.Popen(shlex.split(shard[len(PIPE) :]), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
                while process.stdout.read(1 << 20):  # what follows the tar's end mark; else the command dies of SIGPIPE
                    pass
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise OSError(f"the command ended with status {process.returncode}")
    elif shard.startswith(HTTP):
        with urllib.request.urlopen(shard, timeout=TIMEOUT_S) as response:
            yield response
            while response.read(1 << 20):
                pass
            # Neither urllib nor tarfile minds a connection that ends early at an unlucky byte.
            if response.length:
                raise OSError(f"the connection ended {response.length} bytes early")
    else:
        with Path(shard).open("rb") as stream:
            yield stream


def _read_once(shard: str, skip: int) -> Iterator[tuple[str, bytes]]:
    with _opened(shard) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
        count = 0
        for member in archive:
            if not member.isfile() or Path(member.name).suffix.lower() not in SHARD_IMAGE_SUFFIXES:
                continue
            count += 1
            if count > skip:
                content = archive.extractfile(member)
                assert content is not None
                data = content.read()
                if len(data) < member.size:
                    raise OSError(f"{member.name} is cut off")
                yield member.name, data


def shard_photographs(shard: str, wait_s: float = 1.0) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a shard's photographs; a broken connection is taken up again where it broke.

    Args:
        shard: URL, `pipe:command` or path.
        wait_s: before the second attempt; doubled for each further one.

    Raises:
        SourceError: it could not be read to its end in `ATTEMPTS` attempts in a row without progress.
    """
    done, failures = 0, 0
    while True:
        try:
            for item in _read_once(shard, done):
                done, failures = done + 1, 0
                yield item
            return
        except (OSError, tarfile.TarError, EOFError, http.client.HTTPException) as error:
            failures += 1
            if failures >= ATTEMPTS:
                raise SourceError(
                    f"{shard} could not be read beyond its first {done} photographs ({error}); check the address"
                ) from error
            logger.warning("%s: %s after %d photographs; trying again", shard, error, done)
            time.sleep(wait_s * 2 ** (failures - 1))


class StreamedPhotographs:
    """The shards of one process, over and over.

    Args:
        shards: of all processes.
        rank: of this process.
        world: number of processes.
        seed: of the run.

    Raises:
        DataError: fewer shards than processes.
    """

    def __init__(self, shards: Sequence[str], rank: int = 0, world: int = 1, seed: int = 0) -> None:
        if len(shards) < world:
            raise DataError(f"{len(shards)} shards for {world} processes; give at least one a process")
        self._shards, self._rank, self._world, self._seed = list(shards), rank, world, seed

    def shards_of(self, epoch: int) -> list[str]:
        """This process's shards in the order of an epoch; together the processes see every shard."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._shards))
        return [self._shards[number] for number in order[self._rank :: self._world]]

    def photographs(self, start: StreamPosition) -> Iterator[StreamedPhotograph]:
        """Without end, from a position on.

        Raises:
            SourceError: a shard that cannot be read.
            DataError: a whole epoch without a photograph.
        """
        epoch, first_shard, first_sample = start.epoch, start.shard, start.sample
        while True:
            is_empty = True
            for number, shard in enumerate(self.shards_of(epoch)):
                if number < first_shard:
                    is_empty = False
                    continue
                for item in self._shard(shard, epoch, number, first_sample):
                    is_empty = False
                    yield item
                first_sample = 0
            if is_empty:
                raise DataError(f"no photographs in {self._shards[0]} and the others; shards hold .jpg, .png or .webp")
            epoch, first_shard = epoch + 1, 0

    def _shard(self, shard: str, epoch: int, number: int, first: int) -> Iterator[StreamedPhotograph]:
        window: list[tuple[str, bytes]] = []
        start = 0
        for item in shard_photographs(shard):
            window.append(item)
            if len(window) == WINDOW:
                yield from self._shuffled(window, shard, epoch, number, start, first)
                start, window = start + WINDOW, []
        yield from self._shuffled(window, shard, epoch, number, start, first)

    def _shuffled(
        self, window: list[tuple[str, bytes]], shard: str, epoch: int, number: int, start: int, first: int
    ) -> Iterator[StreamedPhotograph]:
        order = np.random.default_rng((self._seed, epoch, number, start)).permutation(len(window))
        for place, chosen in enumerate(order, start):
            if place < first:
                continue
            name, data = window[chosen]
            yield StreamedPhotograph(
                name=f"{shard}:{name}",
                data=data,
                position=StreamPosition(epoch=epoch, shard=number, sample=place),
                after=StreamPosition(epoch=epoch, shard=number, sample=place + 1),
            )
