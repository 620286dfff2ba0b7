"""The photographs that may train shipped weights, decoded once to a pyramid of sizes on disk.

Every photograph is stored at seven short sides, each sqrt(2) times the one before. Sides of every level are multiples
of 8, and a level is exactly twice the one two places before it, so that a window of one level is a window of another.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SHORT_SIDES_PX = (80, 112, 160, 224, 320, 448, 640)
_ALLOWED = re.compile(r"public domain|CC0|CC-BY-\d|free to use|Unsplash|Pexels|Pixabay", re.IGNORECASE)
_REFUSED = re.compile(r"BY-SA|GPL", re.IGNORECASE)

Image = NDArray[np.uint8]


def permitted_photographs(data: Path) -> list[Path]:
    """Files of `photos/` whose licence row lets them train shipped weights, in the manifest's order.

    Args:
        data: a folder with photos/ and MANIFEST.csv, which has a path and a licence in each row.
    """
    with (data / "MANIFEST.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].startswith("photos/")]
    return [
        data / row["path"] for row in rows if _ALLOWED.search(row["licence"]) and not _REFUSED.search(row["licence"])
    ]


def read_rgb(path: Path) -> Image:
    """An image file as (H, W, 3) RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise OSError(f"{path} is no image that OpenCV reads")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def level_sides(height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) [px] of every level of a photograph of the given size."""
    sides: list[tuple[int, int]] = []
    for index, short in enumerate(SHORT_SIDES_PX):
        if index >= 2:
            sides.append((2 * sides[index - 2][0], 2 * sides[index - 2][1]))
            continue
        scale = short / min(height, width)
        sides.append((round(height * scale / 8) * 8, round(width * scale / 8) * 8))
    return sides


@dataclass(frozen=True)
class Pyramid:
    """All photographs at all levels.

    Attributes:
        levels: `levels[photo][level]` is (H, W, 3), memory-mapped.
    """

    levels: list[list[Image]]

    def __len__(self) -> int:
        return len(self.levels)


def open_pyramid(folder: Path, data: Path) -> Pyramid:
    """The pyramid of the permitted photographs of `data`, decoded into `folder` at the first call."""
    pixels, table = folder / "pyramid.u8", folder / "pyramid.npy"
    if not table.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _decode(permitted_photographs(data), pixels, table)
    flat = np.memmap(pixels, np.uint8, "r")
    levels: list[list[Image]] = []
    start = 0
    for photograph in np.load(table):
        levels.append([])
        for height, width in photograph:
            stop = start + int(height) * int(width) * 3
            levels[-1].append(flat[start:stop].reshape(height, width, 3))
            start = stop
    return Pyramid(levels)


def _decode(paths: list[Path], pixels: Path, table: Path) -> None:
    sides = []
    with pixels.open("wb") as file:
        for path in paths:
            image = read_rgb(path)
            sides.append(level_sides(*image.shape[:2]))
            for height, width in sides[-1]:
                file.write(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).tobytes())
    np.save(table, np.array(sides))
