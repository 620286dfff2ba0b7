"""What a camera can do, asked of its driver: Video for Linux, whose requests are fixed structures.

The driver numbers formats, sizes and rates; each is asked for by its index until there is no more.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

# linux/videodev2.h: the request's direction and size are in its number.
_QUERYCAP, _ENUM_FMT, _ENUM_FRAMESIZES, _ENUM_FRAMEINTERVALS = 0x80685600, 0xC0405602, 0xC02C564A, 0xC034564B
_CAPTURE, _CAPTURE_MPLANE, _DEVICE_CAPS = 0x1, 0x1000, 0x80000000
_BUFFER_CAPTURE, _BUFFER_CAPTURE_MPLANE = 1, 9
_DISCRETE = 1
# struct v4l2_capability, v4l2_fmtdesc, v4l2_frmsizeenum, v4l2_frmivalenum
_CAPABILITY, _FORMAT, _SIZE, _INTERVAL = "16s32s32sIII12x", "III32sII12x", "III6I8x", "IIIII6I8x"
_MOST = 64  # drivers that never say that there are no more

Ioctl = Callable[[int, int, bytearray], Any]


def camera_facts(device: str, ioctl: Ioctl | None = None) -> dict[str, Any]:
    """Name, driver and formats of a video device.

    Args:
        device: for instance `/dev/video0`.
        ioctl: as `fcntl.ioctl`; None takes that.

    Returns:
        `card`, `driver`, `has_pictures`, and `formats`: `[{"fourcc", "description", "sizes": [{"width", "height",
        "fps"}]}]`.

    Raises:
        OSError: it does not open, or is no video device.
    """
    if ioctl is None:
        import fcntl

        ioctl = fcntl.ioctl
    handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        answer = bytearray(struct.calcsize(_CAPABILITY))
        ioctl(handle, _QUERYCAP, answer)
        driver, card, _, _, capabilities, own = struct.unpack(_CAPABILITY, answer)
        flags = own if capabilities & _DEVICE_CAPS else capabilities
        facts = {
            "card": _text(card),
            "driver": _text(driver),
            "has_pictures": bool(flags & (_CAPTURE | _CAPTURE_MPLANE)),
        }
        kind = _BUFFER_CAPTURE if flags & _CAPTURE else _BUFFER_CAPTURE_MPLANE
        return facts | {"formats": list(_formats(handle, ioctl, kind)) if facts["has_pictures"] else []}
    finally:
        os.close(handle)


def _formats(handle: int, ioctl: Ioctl, kind: int) -> Iterator[dict[str, Any]]:
    for index in range(_MOST):
        answer = bytearray(struct.pack(_FORMAT, index, kind, 0, b"", 0, 0))
        if not _asked(handle, ioctl, _ENUM_FMT, answer):
            return
        _, _, _, description, pixels, _ = struct.unpack(_FORMAT, answer)
        fourcc = struct.pack("<I", pixels & 0x7FFFFFFF).decode("ascii", "replace")
        sizes = list(_sizes(handle, ioctl, pixels))
        yield {"fourcc": fourcc.strip(), "description": _text(description), "sizes": sizes}


def _sizes(handle: int, ioctl: Ioctl, pixels: int) -> Iterator[dict[str, Any]]:
    for index in range(_MOST):
        answer = bytearray(struct.pack(_SIZE, index, pixels, 0, *[0] * 6))
        if not _asked(handle, ioctl, _ENUM_FRAMESIZES, answer):
            return
        _, _, kind, *values = struct.unpack(_SIZE, answer)
        if kind == _DISCRETE:
            width, height = values[:2]
        else:  # any between a smallest and a largest; the largest is what people ask for
            width, height = values[1], values[4]
        yield {"width": width, "height": height, "fps": _fastest(handle, ioctl, pixels, width, height)}
        if kind != _DISCRETE:
            return


def _fastest(handle: int, ioctl: Ioctl, pixels: int, width: int, height: int) -> float | None:
    """The highest rate of a size [1/s]; None where the driver names none."""
    rates = []
    for index in range(_MOST):
        answer = bytearray(struct.pack(_INTERVAL, index, pixels, width, height, 0, *[0] * 6))
        if not _asked(handle, ioctl, _ENUM_FRAMEINTERVALS, answer):
            break
        _, _, _, _, kind, numerator, denominator, *_ = struct.unpack(_INTERVAL, answer)
        if numerator:  # of a range the first is the shortest
            rates.append(denominator / numerator)
        if kind != _DISCRETE:
            break
    return max(rates, default=None)


def _asked(handle: int, ioctl: Ioctl, request: int, answer: bytearray) -> bool:
    try:
        ioctl(handle, request, answer)
    except OSError:  # EINVAL: there is no such index
        return False
    return True


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()
