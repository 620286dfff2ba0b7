"""Descriptors of every photograph at every level, measured once and kept on disk.

They are measured on twice the level's resolution, so that a target knows more than the network sees, in cells of 8 px
of the level: half a token.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nano.descriptor import Filters, base_maps, to_unit
from nano.photographs import Pyramid, permitted_photographs, read_rgb

HALF_PX = 8
CELLS_NAME = "cells.f16"


def half_cells(image: Tensor, filters: Filters) -> Tensor:
    """From the image at twice the level's size: (1, C, H / 8, W / 8) for a level of H x W."""
    return F.avg_pool2d(base_maps(image, filters), 4)


def measure_cells(pyramid: Pyramid, filters: Filters, folder: Path, data: Path) -> None:
    """Measure all photographs into `folder`; nothing where that is done, and a part that is there is continued."""
    if (folder / CELLS_NAME).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{CELLS_NAME}.part"
    with part.open("ab") as file:
        done, size = _whole_photographs(pyramid, file.tell(), filters)
        file.truncate(size)
        for index, path in enumerate(permitted_photographs(data)):
            if index < done:
                continue
            photograph = read_rgb(path)
            for image in pyramid.levels[index]:
                file.write(half_cells(to_unit(_finer(photograph, image)), filters)[0].half().numpy().tobytes())
            print(f"measured {index + 1} of {len(pyramid)}", flush=True)
    part.rename(folder / CELLS_NAME)


def _finer(photograph: NDArray[np.uint8], level: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (level.shape[1] * 2, level.shape[0] * 2)
    shrinks = size[0] < photograph.shape[1]
    return np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


def _whole_photographs(pyramid: Pyramid, size: int, filters: Filters) -> tuple[int, int]:
    """How many photographs a part of `size` bytes holds whole, and their bytes."""
    channels = 14 + 2 * len(filters.offset)
    count, total = 0, 0
    for levels in pyramid.levels:
        more = sum(level.shape[0] * level.shape[1] for level in levels) // HALF_PX**2 * channels * 2
        if total + more > size:
            break
        count, total = count + 1, total + more
    return count, total


def map_cells(pyramid: Pyramid, folder: Path) -> list[list[NDArray[np.float16]]]:
    """`[photograph][level]` is a memory-mapped (C, h, w)."""
    flat = np.memmap(folder / CELLS_NAME, np.float16, "r")
    cells = sum(level.shape[0] * level.shape[1] for levels in pyramid.levels for level in levels) // HALF_PX**2
    channels = len(flat) // cells
    start = 0
    maps: list[list[NDArray[np.float16]]] = []
    for levels in pyramid.levels:
        maps.append([])
        for level in levels:
            height, width = level.shape[0] // HALF_PX, level.shape[1] // HALF_PX
            stop = start + channels * height * width
            maps[-1].append(flat[start:stop].reshape(channels, height, width))
            start = stop
    return maps
