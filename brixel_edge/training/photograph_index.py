"""Photographs that can be read in any order: files below a folder, and members of local tar shards.

Headers are read once, so that a run knows before it starts which photographs there are and how large. What is no
photograph is counted by reason and reported in one line. Knows nothing of views, batches or epochs.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import DataError
from brixel_edge.machine.progress import progress
from brixel_edge.training.photographs import UnusablePhotograph, open_photograph, upright_size
from brixel_edge.training.views import fits

logger = logging.getLogger(__name__)

SHARD_SUFFIX = ".tar"
# In shards other members (.json, .txt, .cls) belong to the format; in a folder every file is looked at.
SHARD_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".jp2", ".avif"})
NAMES_SHOWN = 3


class Tally:
    """Counts what was left out, by reason, from any thread; each name once."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {}
        self._lock = threading.Lock()

    def add(self, reason: str, name: str) -> bool:
        """Count a photograph; whether it is new."""
        with self._lock:
            names = self._names.setdefault(reason, {})
            is_new = name not in names
            names[name] = None
            return is_new

    @property
    def counts(self) -> dict[str, int]:
        """How many of each reason."""
        with self._lock:
            return {reason: len(names) for reason, names in self._names.items()}

    def __str__(self) -> str:
        with self._lock:
            return "; ".join(f"{len(names)} {reason} ({_first(names)})" for reason, names in self._names.items())


def _first(names: dict[str, None]) -> str:
    shown = list(names)[:NAMES_SHOWN]
    return ", ".join([*shown, "..."] if len(names) > NAMES_SHOWN else shown)


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """Where a photograph lies, and how large it is.

    Attributes:
        name: path below the data folder, or `shard.tar:member`.
        path: of the file or of the shard.
        offset: of its bytes in a shard; None for a file of its own.
        size_bytes: of the encoded photograph.
        height: upright [px].
        width: upright [px].
    """

    name: str
    path: Path
    offset: int | None
    size_bytes: int
    height: int = 0
    width: int = 0

    def read(self) -> bytes:
        """Its encoded bytes.

        Raises:
            UnusablePhotograph: the file is gone or cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset or 0)
                return stream.read(self.size_bytes)
        except OSError as error:
            raise UnusablePhotograph("not readable") from error


@dataclass(frozen=True, kw_only=True)
class PhotographIndex:
    """The photographs of a run, sorted by name.

    Attributes:
        photographs: all that have a readable header.
        left_out: what was not, by reason.
    """

    photographs: tuple[Photograph, ...]
    left_out: Tally

    def __len__(self) -> int:
        return len(self.photographs)

    @property
    def data_hash(self) -> str:
        """sha256 over name, byte count and size of every photograph: the same files give the same hash anywhere."""
        digest = hashlib.sha256()
        for photograph in self.photographs:
            line = f"{photograph.name}\t{photograph.size_bytes}\t{photograph.height}x{photograph.width}\n"
            digest.update(line.encode())
        return digest.hexdigest()

    def eligible(self, sizes: Sequence[tuple[int, int]], max_upscale: float) -> NDArray[np.bool_]:
        """(photographs, sizes): which photograph is large enough for the teacher's view of which student size."""
        return np.array(
            [[fits(p.height, p.width, size, max_upscale) for size in sizes] for p in self.photographs], dtype=bool
        ).reshape(len(self.photographs), len(sizes))


def index_photographs(sources: Sequence[Path], workers: int = 8, *, is_shown: bool = False) -> PhotographIndex:
    """Find and look at all photographs of folders, tar shards and single files.

    Args:
        sources: existing paths; a folder is searched through, shards in it included, hidden files excluded.
        workers: threads.
        is_shown: show on stderr how far it is.

    Raises:
        DataError: there are none.
    """
    tally = Tally()
    found = sorted((item for source in sources for item in _files_of(source, tally)), key=lambda item: item.name)
    with ThreadPoolExecutor(workers) as pool:
        seen = pool.map(lambda item: _with_size(item, tally), found)
        tracked = progress(seen, "photographs", total=len(found)) if is_shown else seen
        photographs = tuple(item for item in tracked if item is not None)
    where = ", ".join(str(source) for source in sources)
    if not photographs:
        reason = f"left out: {tally}" if tally.counts else "it is empty"
        raise DataError(f"{where} has no photographs ({reason}); give a folder of images or .tar shards")
    if tally.counts:
        logger.warning("%s: left out %s; using %d", where, tally, len(photographs))
    return PhotographIndex(photographs=photographs, left_out=tally)


def _with_size(photograph: Photograph, tally: Tally) -> Photograph | None:
    try:
        source = photograph.path if photograph.offset is None else photograph.read()
        with open_photograph(source) as image:
            height, width = upright_size(image)
    except UnusablePhotograph as problem:
        tally.add(problem.reason, photograph.name)
        return None
    return Photograph(
        name=photograph.name, path=photograph.path, offset=photograph.offset,
        size_bytes=photograph.size_bytes, height=height, width=width,
    )  # fmt: skip


def _files_of(source: Path, tally: Tally) -> Iterator[Photograph]:
    if source.is_dir():
        for path in _walk(source):
            name = path.relative_to(source).as_posix()
            yield from _members(path, name, tally) if path.suffix == SHARD_SUFFIX else _file(path, name, tally)
    elif source.suffix == SHARD_SUFFIX:
        yield from _members(source, source.name, tally)
    else:
        yield from _file(source, source.name, tally)


def _file(path: Path, name: str, tally: Tally) -> Iterator[Photograph]:
    try:
        yield Photograph(name=name, path=path, offset=None, size_bytes=path.stat().st_size)
    except OSError:  # a dangling link, for instance
        tally.add("not readable", name)


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _members(shard: Path, name: str, tally: Tally) -> Iterator[Photograph]:
    size_bytes = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile() or Path(member.name).suffix.lower() not in SHARD_IMAGE_SUFFIXES:
                    continue
                label = f"{name}:{member.name}"
                if member.offset_data + member.size > size_bytes:
                    tally.add("cut off at the end of its shard", label)
                    continue
                yield Photograph(name=label, path=shard, offset=member.offset_data, size_bytes=member.size)
    except tarfile.TarError:
        tally.add("a damaged shard, read up to the damage", name)
