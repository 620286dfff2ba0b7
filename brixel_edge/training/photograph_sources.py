"""What a user may name as training data: folders, globs, tar shards, addresses, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.errors import DataError
from brixel_edge.training.photograph_index import SHARD_SUFFIX
from brixel_edge.training.photograph_stream import HTTP, PIPE, is_streamed

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, kw_only=True)
class DataSources:
    """Named data, resolved: either all of it can be read in any order, or all of it is read as streams.

    Attributes:
        paths: folders, shards and files; empty for streams.
        streams: shards that are read forward; empty otherwise.
    """

    paths: tuple[Path, ...] = ()
    streams: tuple[str, ...] = ()


def expand_range(text: str) -> Iterator[str]:
    """`a-{008..010}.tar` -> a-008.tar, a-009.tar, a-010.tar; text without a range as it is."""
    match = _RANGE.search(text)
    if not match:
        yield text
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from expand_range(f"{text[: match.start()]}{number:0{len(first)}d}{text[match.end() :]}")


def resolve_sources(named: Sequence[str]) -> DataSources:
    """Read the values of --data.

    Args:
        named: folders, files, globs, `.tar` shards, http(s) addresses, `pipe:COMMAND`; `{000..099}` is expanded.

    Raises:
        DataError: a path that is not there, or folders mixed with streams.
    """
    expanded = [item for text in named for item in expand_range(text)]
    if any(is_streamed(item) for item in expanded):
        return DataSources(streams=tuple(shard for item in expanded for shard in _shards(item)))
    paths = [path for item in expanded for path in _existing(item)]
    return DataSources(paths=tuple(paths))


def _shards(item: str) -> list[str]:
    if item.startswith((PIPE, *HTTP)):
        return [item]
    if is_streamed(item) or item.endswith(SHARD_SUFFIX):
        return [str(path) for path in _existing(item)]
    raise DataError(f"{item} is no shard, but other data is streamed; give a folder alone, or shards only")


def _existing(item: str) -> list[Path]:
    path = Path(item)
    if path.exists():
        return [path]
    matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not matches:
        raise DataError(f"no such data: {item}; give a folder of images, .tar shards, an http address or pipe:COMMAND")
    return matches
