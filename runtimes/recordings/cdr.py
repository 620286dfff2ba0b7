"""Messages in CDR, the encoding of ROS 2: fields in order, each aligned to its own size, little-endian.

Only the kinds of fields that our messages have; `messages.py` says which those are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Plain CDR, little-endian, no options. Alignment counts from behind it.
_ENCAPSULATION = b"\x00\x01\x00\x00"
_CODES = {"bool": "?", "uint32": "I", "uint64": "Q", "float64": "d"}
_ARRAY = re.compile(r"(\w+)\[(\d+)\]")
TIME = "builtin_interfaces/Time"


@dataclass(frozen=True)
class Field:
    """A field of a message.

    Attributes:
        kind: `bool`, `uint32`, `uint64`, `float64`, one of these with a fixed count (`float64[2]`), `string`, `uint8[]`
            or `builtin_interfaces/Time`, which is (seconds, nanoseconds).
        name: in lower case.
        meaning: for the schema.
    """

    kind: str
    name: str
    meaning: str


def message_from_values(fields: Sequence[Field], values: Mapping[str, Any]) -> bytes:
    """Encode one message."""
    parts: list[Any] = [_ENCAPSULATION]
    size = 0
    for field in fields:
        for alignment, piece in _pieces(field.kind, values[field.name]):
            padding = -size % alignment
            parts += [bytes(padding), piece]
            size += padding + len(piece)
    return b"".join(parts)


def values_from_message(fields: Sequence[Field], message: bytes) -> dict[str, Any]:
    """Decode one message; what is a `uint8[]` is a view into it.

    Raises:
        ValueError: it is cut short, or of another encoding.
    """
    if not message.startswith(_ENCAPSULATION):
        raise ValueError("not a message in little-endian CDR")
    reader = _Reader(memoryview(message)[len(_ENCAPSULATION) :])
    try:
        return {field.name: reader.value(field.kind) for field in fields}
    except struct.error as error:
        raise ValueError("a message that is cut short") from error


def _code_and_count(kind: str) -> tuple[str, int | None]:
    """Struct's letter, and how many of it; None for one that stands alone."""
    if array := _ARRAY.fullmatch(kind):
        return _CODES[array[1]], int(array[2])
    return _CODES[kind], None


def _pieces(kind: str, value: Any) -> Iterator[tuple[int, Any]]:
    """What a field is made of, each piece with its alignment."""
    if kind == TIME:
        yield 4, struct.pack("<iI", *value)
    elif kind == "string":
        text = value.encode() + b"\0"
        yield 4, struct.pack("<I", len(text)) + text
    elif kind == "uint8[]":
        yield 4, struct.pack("<I", len(value))
        yield 1, value
    else:
        code, count = _code_and_count(kind)
        given = (value,) if count is None else tuple(value)
        yield struct.calcsize(code), struct.pack(f"<{len(given)}{code}", *given)


class _Reader:
    """Takes fields out of a message, one after the other."""

    def __init__(self, body: memoryview) -> None:
        self._body, self._position = body, 0

    def value(self, kind: str) -> Any:
        if kind == TIME:
            return self._unpack(4, "<iI")
        if kind == "string":
            return bytes(self._bytes()[:-1]).decode()
        if kind == "uint8[]":
            return self._bytes()
        code, count = _code_and_count(kind)
        values = self._unpack(struct.calcsize(code), f"<{count or 1}{code}")
        return values[0] if count is None else values

    def _unpack(self, alignment: int, form: str) -> tuple[Any, ...]:
        start = self._position + -self._position % alignment
        self._position = start + struct.calcsize(form)
        return struct.unpack_from(form, self._body, start)

    def _bytes(self) -> memoryview:
        (length,) = self._unpack(4, "<I")
        start, self._position = self._position, self._position + length
        if self._position > len(self._body):
            raise struct.error("cut short")
        return self._body[start : self._position]
