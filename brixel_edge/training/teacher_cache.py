"""The teacher's maps on disk, so that from the second epoch on the teacher need not run.

One file a photograph and view, named by a hash of the photograph's bytes, the view and the teacher. It holds the map in
fp16 and the student's view, so that a hit decodes nothing. Only for views that are the same in every epoch.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import DataError
from brixel_edge.machine.disk import format_gib, require_room
from brixel_edge.machine.files import replacing

logger = logging.getLogger(__name__)

# numpy's two headers, the zip directory and the file system's block.
OVERHEAD_BYTES = 6144


def entry_bytes(dim: int, size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Disk space of one photograph: a (D, h, w) fp16 map and an (H, W, 3) uint8 view."""
    return 2 * dim * grid[0] * grid[1] + 3 * size[0] * size[1] + OVERHEAD_BYTES


def check_cache_fits(folder: Path, needed_bytes: int, budget_bytes: int) -> None:
    """Refuse a cache that would not fit, before anything is computed.

    Raises:
        DataError: over the budget, or more than the disk has left.
    """
    if needed_bytes > budget_bytes:
        raise DataError(
            f"the teacher's cache needs {format_gib(needed_bytes)}, --cache-budget is {format_gib(budget_bytes)}; "
            "raise it, use fewer photographs or sizes, or leave --cache out"
        )
    require_room(folder, needed_bytes, held="*/*.npz", what="the teacher's cache needs")


@dataclass(frozen=True, kw_only=True)
class CachedView:
    """What a file of the cache holds.

    Attributes:
        student: (H, W, 3) uint8, the student's view.
        target: (D, h, w) fp16, the teacher's map.
    """

    student: NDArray[np.uint8]
    target: NDArray[np.float16]


class TeacherCache:
    """A folder of maps; may be read and written from several threads and processes at once.

    Args:
        folder: made when needed.
        teacher: names the backbone's weights and its precision.
    """

    def __init__(self, folder: Path, teacher: str) -> None:
        self.folder, self._teacher = folder, teacher
        self._is_full = False

    def key(self, data: bytes, view: str) -> str:
        """Name of an entry: of a photograph's bytes in a view."""
        text = f"{hashlib.sha256(data).hexdigest()} {view} {self._teacher}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"

    def get(self, key: str) -> CachedView | None:
        """An entry, or None where there is none or it is damaged (zip checks a CRC)."""
        path = self._path(key)
        try:
            with np.load(path) as arrays:
                return CachedView(student=arrays["student"], target=arrays["target"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            logger.warning("%s is damaged; the teacher computes it again", path)
            return None

    def put(self, key: str, view: CachedView) -> None:
        """Write an entry under a temporary name first; a full disk ends the caching, not the run."""
        if self._is_full:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, is_durable=False) as temporary, temporary.open("wb") as stream:
                np.savez(stream, student=view.student, target=view.target)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._is_full = True
            logger.warning("%s: the disk is full; no more of the teacher's maps are cached", self.folder)
