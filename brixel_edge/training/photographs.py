"""One photograph: encoded bytes in, the upright 8-bit RGB pixels of a view out.

Whatever can be read rightly is read rightly (gray, CMYK, palette, transparent, 16-bit, turned by EXIF, 100 megapixels);
the rest is refused with a reason and never shown in part. Colour profiles are not applied. Knows nothing of folders.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) [px], in the upright photograph."""

# Only formats that cameras and data sets use; Pillow would also run Ghostscript on an .eps.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "MPO")
MAX_PIXELS = 300_000_000
# A JPEG may be decoded at 1/2, 1/4 or 1/8, which is several times cheaper, while it stays this much larger than the
# view: the antialiased resize that follows then leaves no visible trace of it (Pillow's own `reducing_gap`).
DECODE_MARGIN = 2.0

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error,
)  # fmt: skip


class UnusablePhotograph(Exception):
    """A file that cannot serve as a photograph; it is counted and passed over.

    Args:
        reason: few words, the same for all files of the kind, since it is counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_photograph(source: bytes | Path) -> Image.Image:
    """Read a photograph's header; pixels are decoded later.

    Raises:
        UnusablePhotograph: no image, or more than `MAX_PIXELS`.
    """
    # Pillow's guard against huge images is one number for the whole process; ours is below, per photograph.
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())
    except UnidentifiedImageError as error:
        raise UnusablePhotograph("not an image") from error
    except _DECODER_ERRORS as error:
        raise UnusablePhotograph("not readable") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UnusablePhotograph(f"larger than {MAX_PIXELS // 1_000_000} megapixels")
    return image


def _orientation(image: Image.Image) -> int:
    # Pillow decodes a whole PNG to look for EXIF behind its pixels; there only what stands before them is honoured.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except _DECODER_ERRORS:
        return 1  # damaged EXIF: the pixels are still good


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) [px] once turned as EXIF says."""
    return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)


def _eight_bit_gray(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnusablePhotograph("unsupported pixel format")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        return _eight_bit_gray(image).convert("RGB")
    if image.mode == "F":
        raise UnusablePhotograph("unsupported pixel format")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # What lies under transparent pixels is arbitrary; viewers show white.
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def photograph_view(
    source: bytes | Path, height: int, width: int, crop: Callable[[int, int], Box]
) -> NDArray[np.uint8]:
    """Decode, turn upright, crop and resize (antialiased bicubic) in one go.

    Args:
        source: encoded file or its path.
        height: of the view [px].
        width: of the view [px].
        crop: (height, width) of the upright photograph [px] -> the part of it that fills the view.

    Returns:
        (height, width, 3) uint8, RGB.

    Raises:
        UnusablePhotograph: also what `crop` raises.
    """
    with open_photograph(source) as image:
        full_height, full_width = upright_size(image)
        left, top, right, bottom = crop(full_height, full_width)
        shrink = min((right - left) / width, (bottom - top) / height) / DECODE_MARGIN
        try:
            if image.format in ("JPEG", "MPO") and shrink >= 2:
                image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
            turn = _UPRIGHT.get(_orientation(image))
            image.load()
            upright = _rgb(image) if turn is None else _rgb(image).transpose(turn)
        except _DECODER_ERRORS as error:
            raise UnusablePhotograph("truncated or damaged") from error
        x, y = upright.width / full_width, upright.height / full_height
        box = (left * x, top * y, min(right * x, upright.width), min(bottom * y, upright.height))
        return np.array(upright.resize((width, height), Image.Resampling.BICUBIC, box=box))
