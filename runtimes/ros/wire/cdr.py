"""CDR, the form in which messages travel (version 1, as ROS 2 uses it): little-endian, each number aligned to its size.

A sequence of numbers is written from its array's memory and read as a view of the received bytes: a Python list of the
three million bytes of an image would take longer than the model.
"""

from __future__ import annotations

import re
import struct
import sys
from typing import Any, Literal

import numpy as np

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.ros.wire.messages import MESSAGES, Message

_CODES = {"bool": "?", "uint8": "B", "int32": "i", "uint32": "I", "float32": "f", "float64": "d"}
_HEADS: dict[bytes, Literal["<", ">"]] = {b"\x00\x01": "<", b"\x00\x00": ">"}
_SEQUENCE = re.compile(r"(\w+)\[(\d*)\]")


def cdr_from_message(message: Message) -> bytes:
    """Write a message, with its head of four bytes.

    Raises:
        SpecError: an array of another length than the message defines, or a number that does not fit.
    """
    writer = _Writer()
    try:
        _write(writer, message)
    except (struct.error, OverflowError) as error:
        raise SpecError(f"{message.NAME} cannot be written: {error}") from error
    return b"\x00\x01\x00\x00" + b"".join(writer.parts)


def message_from_cdr(kind: type[Message], data: bytes | memoryview) -> Any:
    """Read a message; its arrays are views of the data.

    Raises:
        SpecError: the data are not such a message.
    """
    view = memoryview(data)
    order = _HEADS.get(bytes(view[:2]))
    if order is None:
        raise SpecError(f"{kind.NAME} does not begin as CDR version 1 does ({bytes(view[:4]).hex()})")
    try:
        return _read(_Reader(view[4:], order), kind)
    except (struct.error, ValueError) as error:
        raise SpecError(f"{kind.NAME} cannot be read: {error}") from error


class _Writer:
    """Collects parts; knows how long they are together, since alignment counts from the start."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.length = 0

    def align(self, size: int) -> None:
        if pad := -self.length % size:
            self.append(bytes(pad))

    def append(self, part: bytes | memoryview) -> None:
        self.parts.append(part)
        self.length += len(part)

    def number(self, code: str, value: Any) -> None:
        self.align(struct.calcsize(code))
        self.append(struct.pack("<" + code, value))


class _Reader:
    def __init__(self, view: memoryview, order: Literal["<", ">"]) -> None:
        self.order: Literal["<", ">"] = order
        self.view, self.at = view, 0

    def align(self, size: int) -> None:
        self.at += -self.at % size

    def take(self, length: int) -> memoryview:
        if self.at + length > len(self.view):
            raise ValueError(f"it ends at byte {len(self.view)}, {self.at + length} are announced")
        part = self.view[self.at : self.at + length]
        self.at += length
        return part

    def number(self, code: str) -> Any:
        size = struct.calcsize(code)
        self.align(size)
        return struct.unpack(self.order + code, self.take(size))[0]


def _write(writer: _Writer, message: Message) -> None:
    for name, kind in message.FIELDS.items():
        value = getattr(message, name)
        if kind == "string":
            raw = value.encode() + b"\0"
            writer.number("I", len(raw))
            writer.append(raw)
        elif match := _SEQUENCE.fullmatch(kind):
            _write_numbers(writer, f"{message.NAME} {name}", match[1], match[2], value)
        elif kind in _CODES:
            writer.number(_CODES[kind], value)
        else:
            _write(writer, value)


def _write_numbers(writer: _Writer, what: str, kind: str, count: str, value: Any) -> None:
    array = np.ascontiguousarray(value, dtype=np.dtype(kind).newbyteorder("<"))
    if count and array.size != int(count):
        raise SpecError(f"{what} has {array.size} numbers, not {count}")
    if not count:
        writer.number("I", array.size)
    if array.size:
        writer.align(array.itemsize)
        writer.append(array.reshape(-1).data.cast("B"))


def _read(reader: _Reader, kind: type[Message]) -> Any:
    values: dict[str, Any] = {}
    for name, field_kind in kind.FIELDS.items():
        if field_kind == "string":
            values[name] = bytes(reader.take(reader.number("I")))[:-1].decode()
        elif match := _SEQUENCE.fullmatch(field_kind):
            values[name] = _read_numbers(reader, match[1], match[2])
        elif field_kind in _CODES:
            values[name] = reader.number(_CODES[field_kind])
        else:
            values[name] = _read(reader, MESSAGES[field_kind])
    return kind(**values)


def _read_numbers(reader: _Reader, kind: str, count: str) -> np.ndarray:
    number = int(count) if count else reader.number("I")
    dtype = np.dtype(kind).newbyteorder(reader.order)
    if number:
        reader.align(dtype.itemsize)
    array = np.frombuffer(reader.take(number * dtype.itemsize), dtype)
    is_native = reader.order == ("<" if sys.byteorder == "little" else ">")
    return array if is_native else array.astype(dtype.newbyteorder("="))
