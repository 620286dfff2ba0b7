"""Whether a disk has room for a cache, asked before anything is computed for it."""

from __future__ import annotations

import shutil
from pathlib import Path

from brixel_edge.errors import DataError


def require_room(folder: Path, needed_bytes: int, *, held: str, what: str) -> None:
    """Refuse a cache that the disk cannot hold; the folder is made.

    Args:
        folder: of the cache.
        needed_bytes: of the whole cache; what is there already needs no more room.
        held: pattern of the cache's files.
        what: is kept, and a verb: `the features take`.

    Raises:
        DataError: it is more than the disk has left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held_bytes = sum(path.stat().st_size for path in folder.glob(held))
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes - held_bytes > free_bytes:
        raise DataError(
            f"{what} {format_gib(needed_bytes)}, of which {format_gib(held_bytes)} are there; {folder} has only "
            f"{format_gib(free_bytes)} free; make room, or name another --cache folder"
        )


def format_gib(size_bytes: int) -> str:
    """In GiB, the unit of disks."""
    return f"{size_bytes / 2**30:.2f} GiB"
