"""The spec inside a bare .onnx file, read without the onnx package.

An ONNX file is one protobuf message; its metadata are top-level entries beside the graph. This reader walks the top
level only and seeks over everything else, so it costs microseconds however large the weights are. It knows nothing of
what the graph computes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

from brixel_edge.errors import BundleError
from brixel_edge.model.spec import ModelSpec

SPEC_KEY = "brixel.spec"

# Field numbers of onnx.proto: ModelProto.metadata_props, ModelProto.graph, StringStringEntryProto.{key, value}.
_METADATA_FIELD, _GRAPH_FIELD = 14, 7
_KEY_FIELD, _VALUE_FIELD = 1, 2
_MAX_ENTRY_BYTES = 1 << 20


def _varint(stream: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = stream.read(1)
        if not byte or shift > 63:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
        shift += 7


def _skip(stream: BinaryIO, wire_type: int) -> int | None:
    """Skip a value that is not length-delimited, or give the length of one that is."""
    if wire_type == 2:
        return _varint(stream)
    if wire_type == 0:
        _varint(stream)
    elif wire_type in (1, 5):
        stream.seek(8 if wire_type == 1 else 4, 1)
    else:
        raise EOFError
    return None


def _entry(data: bytes) -> tuple[str, str]:
    """One key and value from a serialised StringStringEntryProto."""
    fields: dict[int, str] = {}
    position = 0
    while position < len(data):
        tag, position = data[position], position + 1
        length = shift = 0
        while True:
            byte, position = data[position], position + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        fields[tag >> 3] = data[position : position + length].decode()
        position += length
    return fields.get(_KEY_FIELD, ""), fields.get(_VALUE_FIELD, "")


def read_onnx_metadata(path: str | Path) -> dict[str, str]:
    """The metadata_props of an ONNX file.

    Raises:
        BundleError: the file is missing or is no ONNX model.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"{path} is not a file; give an .onnx file or a model directory made by brixel-export")
    size = path.stat().st_size
    entries: dict[str, str] = {}
    has_graph = False
    try:
        with path.open("rb") as stream:
            while stream.tell() < size:
                tag = _varint(stream)
                length = _skip(stream, tag & 7)
                if length is None:
                    continue
                if stream.tell() + length > size:
                    raise EOFError
                has_graph |= tag >> 3 == _GRAPH_FIELD
                if tag >> 3 == _METADATA_FIELD and length <= _MAX_ENTRY_BYTES:
                    key, value = _entry(stream.read(length))
                    entries[key] = value
                else:
                    stream.seek(length, 1)
    except (EOFError, IndexError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path} is not an ONNX model, or is cut short; export it again with brixel-export"
        ) from error
    if not has_graph:
        raise BundleError(f"{path} is not an ONNX model: it holds no graph; export it again with brixel-export")
    return entries


def spec_from_onnx(path: str | Path) -> ModelSpec:
    """The ModelSpec that brixel-export put into the file's metadata.

    Raises:
        BundleError: no ONNX file, or one that brixel-export did not make.
        SpecError: a spec of another version.
    """
    metadata = read_onnx_metadata(path)
    if SPEC_KEY not in metadata:
        raise BundleError(f"{path} carries no brixel spec; make it with brixel-export (found {sorted(metadata)[:5]})")
    try:
        record = json.loads(metadata[SPEC_KEY])
    except json.JSONDecodeError as error:
        raise BundleError(f"{path}: its brixel spec is damaged ({error}); export it again") from error
    return ModelSpec.from_json(record)
