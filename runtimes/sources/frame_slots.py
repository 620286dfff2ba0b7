"""Frames in memory that two processes share: a few slots of one size, in turns.

The memory has no name, so nothing of it is left behind when a process is killed.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

SLOTS = 3


def open_shared_memory() -> int:
    """The descriptor of an empty piece of memory, to be handed to another process and closed."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("brixel-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class FrameSlots:
    """One process's view of it.

    Args:
        descriptor: of `open_shared_memory`; closed by `close`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def write(self, number: int, image: NDArray[np.uint8]) -> None:
        """Put a picture into a slot; the memory grows where it must. All slots hold pictures of one size."""
        needed = SLOTS * image.nbytes
        if os.fstat(self._descriptor).st_size < needed:
            os.ftruncate(self._descriptor, needed)
        self._view(number, image.shape)[...] = image

    def read(self, number: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A copy of the picture in a slot."""
        return self._view(number, shape).copy()

    def _view(self, number: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        size = int(np.prod(shape))
        if self._map is None or len(self._map) < SLOTS * size:
            if self._map is not None:
                self._map.close()
            self._map = mmap.mmap(self._descriptor, SLOTS * size)
        return np.ndarray(shape, np.uint8, self._map, number * size)

    def close(self) -> None:
        """Let go of the memory; a second call does nothing."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
