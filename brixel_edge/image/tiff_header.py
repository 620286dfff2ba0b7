"""What the directory of a TIFF file says of its first picture; it may lie anywhere in the file."""

from __future__ import annotations

import struct
from collections.abc import Callable

Read = Callable[[int, int], bytes]
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 262, 277
_TAGS = {_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES}
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_PALETTE = 3
_MOST_ENTRIES = 4096


def is_tiff(data: bytes) -> bool:
    """Whether a file that begins like this is one, BigTIFF included."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_layout(read: Read) -> tuple[int, int, int, int]:
    """(height, width, channels, bytes a sample) as OpenCV decodes it.

    Args:
        read: read(position, count) gives bytes of the file, fewer at its end.

    Raises:
        struct.error: it ends before it says so.
        KeyError: it does not say so.
    """
    start = read(0, 16)
    order = "<" if start[:2] == b"II" else ">"
    is_big = start[2:4] in (b"+\0", b"\0+")
    # A classic file counts in 4 bytes and has 12 to an entry, a BigTIFF in 8 and 20.
    number, entry, count_of, position_at = ("Q", 20, "Q", 8) if is_big else ("I", 12, "H", 4)
    [position] = struct.unpack_from(order + number, start, position_at)
    [count] = struct.unpack(order + count_of, read(position, struct.calcsize(count_of)))
    entries = read(position + struct.calcsize(count_of), entry * min(count, _MOST_ENTRIES))
    tags: dict[int, int] = {}
    for at in range(0, len(entries) - entry + 1, entry):
        tag, kind = struct.unpack_from(order + "HH", entries, at)
        if tag in _TAGS and kind in _TYPES:
            tags[tag] = _first_value(read, order, number, entries[at + 4 : at + entry], _TYPES[kind])
    bits, samples = tags.get(_BITS, 1), tags.get(_SAMPLES, 1)
    channels = 3 if tags.get(_PHOTOMETRIC) == _PALETTE else {1: 1, 3: 3}.get(samples, 4)
    return tags[_HEIGHT], tags[_WIDTH], channels, max(1, bits // 8)


def _first_value(read: Read, order: str, number: str, field: bytes, kind: str) -> int:
    """Of an entry's count and value; where the values do not fit in, there is their place."""
    size, place = struct.calcsize(kind), struct.calcsize(number)
    [count] = struct.unpack_from(order + number, field)
    if count * size <= place:
        return struct.unpack_from(order + kind, field, place)[0]
    [position] = struct.unpack_from(order + number, field, place)
    return struct.unpack(order + kind, read(position, size))[0]
