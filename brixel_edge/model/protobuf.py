"""Protobuf messages read field by field, without the protobuf package: as much as .onnx files need."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
HEAD_BYTES = 20  # a tag and a length, ten bytes each at the most


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError


def read_head(data: memoryview, position: int) -> tuple[int, int, int, int]:
    """What stands before a field's value.

    Returns:
        its number; its wire type; the value itself of a VARINT, else its length [bytes]; where what follows begins.

    Raises:
        IndexError: it is no protobuf message, or cut short.
    """
    tag, position = _varint(data, position)
    number, wire = tag >> 3, tag & 7
    if wire in (VARINT, BYTES):
        return number, wire, *_varint(data, position)
    if wire in (FIXED64, FIXED32):
        return number, wire, 8 if wire == FIXED64 else 4, position
    raise IndexError


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of one message; bytes come as views, values of fixed width as 0.

    Raises:
        IndexError: it is no protobuf message, or cut short.
    """
    position, end = 0, len(data)
    while position < end:
        number, wire, value, position = read_head(data, position)
        if wire == VARINT:
            yield number, value
            continue
        if position + value > end:
            raise IndexError
        yield number, data[position : position + value] if wire == BYTES else 0
        position += value


def messages(data: memoryview, number: int) -> Iterator[memoryview]:
    """The values of a field that repeats a message."""
    for field, value in fields(data):
        if field == number and isinstance(value, memoryview):
            yield value


def integer(data: memoryview, number: int) -> int:
    """The first value of an integer field; 0 where it is left out."""
    return next((value for field, value in fields(data) if field == number and isinstance(value, int)), 0)


def text(value: int | memoryview) -> str:
    """A value that is text."""
    return bytes(value).decode() if isinstance(value, memoryview) else ""
