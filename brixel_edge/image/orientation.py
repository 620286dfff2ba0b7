"""How a camera was held, as the EXIF block of a PNG or WebP says; OpenCV turns only JPEGs by it.

As in training, a PNG's block counts only where it stands before the pixels: after them Pillow would have to decode the
whole to find it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_PNG_START = b"\x89PNG\r\n\x1a\n"
_EXIF_START = b"Exif\x00\x00"
_ORIENTATION_TAG, _SHORT, _LONG = 0x0112, 3, 4


def orientation_of(data: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1, upright, for files that say nothing, and where their EXIF is damaged."""
    if data.startswith(_PNG_START):
        chunks = _png_chunks(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        chunks = _webp_chunks(data)
    else:
        return 1
    try:
        block = next((content for kind, content in chunks if kind in (b"eXIf", b"EXIF")), b"")
        return _orientation_in(block.removeprefix(_EXIF_START)) if block else 1
    except struct.error:
        return 1


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The picture upright.

    Args:
        pixels: (H, W, C), as stored.
        orientation: EXIF's.
    """
    if orientation == 1:
        return pixels
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    # What is still to be mirrored, by the side of the picture on which EXIF says its first row and column lie.
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Those before the pixels."""
    position = len(_PNG_START)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            return
        yield kind, data[position + 8 : position + 8 + length]
        position += 12 + length


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    while position < len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            yield kind, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _orientation_in(block: bytes) -> int:
    """Of a TIFF header with its first directory.

    Raises:
        struct.error: it is cut short.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", block, entry)
        if tag == _ORIENTATION_TAG and kind in (_SHORT, _LONG):
            (value,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", block, entry + 8)
            return value if 1 <= value <= 8 else 1
    return 1
