"""A time painted into a picture, so that the age of what comes out at the other end of any way can be measured.

64 cells, black or white, in 4 rows of 16 over the upper half: 48 bits of microseconds and 16 of a checksum (CRC-16).
They outlive scaling and lossy compression; a picture whose checksum is wrong has no time.
"""

from __future__ import annotations

import binascii

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 4, 16
_TIME_BYTES = 6
_SMALLEST_PX = 4


def paint_time(image: NDArray[np.uint8], time_s: float) -> None:
    """Paint a time into the upper half of a picture, in place.

    Args:
        image: (H, W) or (H, W, C) uint8, at least 64 x 32.
        time_s: at least 0, for instance of `time.monotonic()`; kept to the microsecond.
    """
    time_bytes = round(time_s * 1e6).to_bytes(_TIME_BYTES, "big")
    code = time_bytes + binascii.crc_hqx(time_bytes, 0xFFFF).to_bytes(2, "big")
    bits = np.unpackbits(np.frombuffer(code, np.uint8)).reshape(ROWS, COLUMNS)
    rows, columns = _edges(image)
    for row in range(ROWS):
        for column in range(COLUMNS):
            cell = image[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
            cell[...] = 255 * bits[row, column]


def read_time(image: NDArray[np.uint8]) -> float | None:
    """The time that was painted into a picture [s]; None where none can be read.

    Args:
        image: (H, W) or (H, W, C) uint8, of any size.
    """
    rows, columns = _edges(image)
    if min(np.diff(rows).min(), np.diff(columns).min()) < _SMALLEST_PX:
        return None
    bits = np.zeros((ROWS, COLUMNS), np.uint8)
    for row in range(ROWS):
        for column in range(COLUMNS):
            bits[row, column] = _middle(image, rows, columns, row, column).mean() > 127
    code = np.packbits(bits).tobytes()
    time_bytes, checksum = code[:_TIME_BYTES], int.from_bytes(code[_TIME_BYTES:], "big")
    if binascii.crc_hqx(time_bytes, 0xFFFF) != checksum:
        return None
    return int.from_bytes(time_bytes, "big") / 1e6


def _edges(image: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    height, width = image.shape[:2]
    rows = np.linspace(0, height // 2, ROWS + 1).astype(np.int64)
    return rows, np.linspace(0, width, COLUMNS + 1).astype(np.int64)


def _middle(
    image: NDArray[np.uint8], rows: NDArray[np.int64], columns: NDArray[np.int64], row: int, column: int
) -> NDArray[np.uint8]:
    """A cell without its border, over which scaling and compression smear."""
    margin_y, margin_x = (rows[row + 1] - rows[row]) // 4, (columns[column + 1] - columns[column]) // 4
    return image[
        rows[row] + margin_y : rows[row + 1] - margin_y, columns[column] + margin_x : columns[column + 1] - margin_x
    ]
