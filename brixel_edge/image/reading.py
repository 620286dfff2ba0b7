"""The one reader of picture files: upright (H, W, 3) uint8 BGR, transparency on white, or nothing.

Training reads with Pillow, which decodes large JPEGs in part, by the same rules (`training/photographs.py`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.image.orientation import orientation_of, turned
from brixel_edge.machine.stderr import caught_complaints

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"})
_ROWS = 64
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def _is_cut_short(data: bytes) -> bool:
    """A JPEG without its end marker: OpenCV would fill the rest with grey and say nothing."""
    scan = data.find(_JPEG_SCAN)
    return data.startswith(_JPEG_START) and (scan < 0 or data.find(_JPEG_END, scan) < 0)


def _on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BGRA as viewers show it: what lies under alpha 0 is often black or noise. Few rows at a time, for the memory."""
    bgr = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), _ROWS):
        rows = pixels[top : top + _ROWS]
        alpha = rows[..., 3:].astype(np.uint16)
        bgr[top : top + _ROWS] = (rows[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return bgr


def _eight_bits(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    result = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), _ROWS):
        result[top : top + _ROWS] = (pixels[top : top + _ROWS].astype(np.uint32) + 128) // 257
    return result


def bgr_from_pixels(pixels: NDArray[Any]) -> NDArray[np.uint8] | None:
    """What OpenCV decoded (grey, 16-bit, with alpha) as (H, W, 3) uint8; None for float and other channel counts."""
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    if pixels.dtype == np.uint16:
        pixels = _eight_bits(pixels)
    if pixels.dtype != np.uint8:
        return None
    if pixels.ndim == 2:
        bgr = np.empty((*pixels.shape, 3), np.uint8)
        bgr[...] = pixels[..., None]  # np.repeat would take a copy more
        return bgr
    if pixels.shape[2] == 4:
        return _on_white(pixels)
    return pixels if pixels.shape[2] == 3 else None


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What became of the bytes of an image file.

    Attributes:
        pixels: upright, (H, W, 3) uint8 BGR; None if it is unreadable or cut short.
        complaint: what is wrong with it, even if it could be read; None for nothing.
    """

    pixels: NDArray[np.uint8] | None
    complaint: str | None = None


def decode_with_complaint(data: bytes) -> Decoded:
    """The picture in an image file, and what the library that decoded it had to say."""
    if _is_cut_short(data):
        return Decoded(pixels=None, complaint="not an image, or cut short")
    # Colour mode turns a JPEG by its EXIF tag, and knows no alpha; the unchanged mode is the other way round.
    mode = cv2.IMREAD_COLOR if data.startswith(_JPEG_START) else cv2.IMREAD_UNCHANGED
    pixels = None
    with caught_complaints() as complaints, contextlib.suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    complaint = "; ".join(dict.fromkeys(complaints)) or None
    image = None if pixels is None else bgr_from_pixels(pixels)
    del pixels  # which are as large as the picture, and turning makes another
    if image is None:
        return Decoded(pixels=None, complaint=complaint)
    return Decoded(pixels=turned(image, orientation_of(data)), complaint=complaint)


def decode_image(data: bytes) -> NDArray[np.uint8] | None:
    """The picture in an image file, upright, (H, W, 3) uint8 BGR; None if it is unreadable or cut short."""
    return decode_with_complaint(data).pixels


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """The picture in a file, as `decode_image` gives it; None also if the file cannot be read."""
    try:
        return decode_image(path.read_bytes())
    except OSError:
        return None
