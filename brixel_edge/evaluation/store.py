"""Features of pictures, computed once: in memory or on disk, as fp16, sized before anything is computed."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brixel_edge.errors import DataError
from brixel_edge.evaluation.samples import digest_of
from brixel_edge.evaluation.sources import FeatureSource, Kernel, Size
from brixel_edge.machine.disk import format_gib, require_room
from brixel_edge.machine.files import replacing

logger = logging.getLogger(__name__)

HEADER_BYTES = 4096  # numpy's header and the file system's block
LARGEST_HALF = float(np.finfo(np.float16).max)


def map_bytes(shape: tuple[int, int, int]) -> int:
    """Disk space of one (D, h, w) map."""
    return 2 * int(np.prod(shape)) + HEADER_BYTES


def check_store_fits(folder: Path | None, needed: int, budget: int) -> None:
    """Refuse features that would not fit, before they are computed.

    Args:
        folder: of the cache; None for memory.
        needed: [bytes].
        budget: what they may take [bytes].

    Raises:
        DataError: over the budget, or more than the disk has left.
    """
    if needed > budget:
        place = "in memory; give --cache DIR," if folder is None else f"in {folder};"
        raise DataError(
            f"the features take {format_gib(needed)} {place} raise --cache-budget (now {format_gib(budget)}), or use "
            "--limit or a smaller --size"
        )
    if folder is not None:
        require_room(folder, needed, held="*/*.npy", what="the features take")


class FeatureStore:
    """Maps of one source by the pictures' numbers; this process's share of them.

    Args:
        source: that computes them.
        kernel: that makes pictures small.
        folder: of the cache; None keeps them in memory.
    """

    def __init__(self, source: FeatureSource, kernel: Kernel, folder: Path | None) -> None:
        self._source, self._folder = source, folder
        self._kernel: Kernel = kernel
        self._maps: dict[int, Tensor] = {}
        self._files: dict[int, Path] = {}

    def add(self, index: int, frame: NDArray[np.uint8], view: Size) -> None:
        """Compute a picture's map, or find it in the cache.

        Raises:
            DataError: it has values that fp16 cannot hold.
        """
        if self._folder is None:
            self._maps[index] = self._computed(frame, view)
            return
        text = f"{self._source.identity} {self._source.input_size(view)} {self._kernel} {digest_of(frame)}"
        key = hashlib.sha256(text.encode()).hexdigest()
        path = self._folder / key[:2] / f"{key}.npy"
        if not self._is_good(path, view):
            values = self._computed(frame, view).numpy()
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, is_durable=False) as temporary, temporary.open("wb") as stream:
                np.save(stream, values)
        self._files[index] = path

    def _is_good(self, path: Path, view: Size) -> bool:
        """Whether the cache holds this map whole: its header must fit, and its length the header."""
        try:
            values = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            return False
        except (OSError, ValueError, EOFError):
            logger.warning("%s is damaged; it is computed again", path)
            return False
        return values.dtype == np.float16 and values.shape == self._source.shape(view)

    def _computed(self, frame: NDArray[np.uint8], view: Size) -> Tensor:
        values = self._source.map_of(frame, view, self._kernel)
        largest = float(values.abs().max())
        if not largest <= LARGEST_HALF:
            raise DataError(
                f"a feature of {largest:g} does not fit into fp16, in which features are kept; these weights or this "
                "engine are broken"
            )
        return values.half()

    def __getitem__(self, index: int) -> Tensor:
        """A picture's map, (D, h, w) fp16.

        Raises:
            KeyError: it was never added.
        """
        if self._folder is None:
            return self._maps[index]
        return torch.from_numpy(np.load(self._files[index]))
