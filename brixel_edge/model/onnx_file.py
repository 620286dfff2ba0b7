"""The spec and the digest inside a bare .onnx file, read and written without the onnx package.

An ONNX file is one protobuf message; its metadata are top-level entries beside the graph. This reader walks the top
level only and seeks over everything else, so it costs microseconds however large the weights are. The digest is the
sha256 of everything but foreign metadata and itself: whoever adds an entry of his own does no harm, a flipped bit of a
weight is found. It knows nothing of what the graph computes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from brixel_edge.errors import BundleError
from brixel_edge.model.protobuf import BYTES, HEAD_BYTES, VARINT, fields, read_head, text
from brixel_edge.model.spec import ModelSpec

SPEC_KEY = "brixel.spec"
DIGEST_KEY = "brixel.sha256"
INPUT_NAME = "image"

# Field numbers of onnx.proto: ModelProto.metadata_props, ModelProto.graph, StringStringEntryProto.{key, value}.
_METADATA_FIELD, _GRAPH_FIELD = 14, 7
_KEY_FIELD, _VALUE_FIELD = 1, 2
_MAX_ENTRY_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20


def _entry(data: bytes) -> tuple[str, str]:
    """One key and value from a serialised StringStringEntryProto."""
    texts = {number: text(value) for number, value in fields(memoryview(data))}
    return texts.get(_KEY_FIELD, ""), texts.get(_VALUE_FIELD, "")


@dataclass(frozen=True, kw_only=True)
class _Field:
    """A top-level field: its number, where it begins and ends [bytes], and its metadata if it is an entry of those."""

    number: int
    start: int
    end: int
    entry: tuple[str, str] | None = None


def _top_level(stream: BinaryIO, size: int) -> Iterator[_Field]:
    """The fields of an ONNX model, in order; the stream may be moved between them.

    Raises:
        IndexError, UnicodeDecodeError: it is no protobuf message, or cut short.
    """
    position = 0
    while position < size:
        start = stream.seek(position)
        number, wire, length, head = read_head(memoryview(stream.read(HEAD_BYTES)), 0)
        value = start + head
        position = value if wire == VARINT else value + length
        if position > size:
            raise IndexError
        entry = None
        if number == _METADATA_FIELD and wire == BYTES and 0 < length <= _MAX_ENTRY_BYTES:
            stream.seek(value)
            entry = _entry(stream.read(length))
        yield _Field(number=number, start=start, end=position, entry=entry)


def read_onnx_metadata(path: str | Path) -> dict[str, str]:
    """The metadata_props of an ONNX file.

    Raises:
        BundleError: the file is missing or is no ONNX model.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"{path} is not a file; give an .onnx file or a model directory made by brixel-export")
    entries: dict[str, str] = {}
    has_graph = False
    try:
        with path.open("rb") as stream:
            for field in _top_level(stream, path.stat().st_size):
                has_graph |= field.number == _GRAPH_FIELD
                entries.update([field.entry] if field.entry is not None else [])
    except (IndexError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path} is not an ONNX model, or is cut short; export it again with brixel-export"
        ) from error
    if not has_graph:
        raise BundleError(f"{path} is not an ONNX model: it holds no graph; export it again with brixel-export")
    return entries


def with_digest(content: bytes) -> bytes:
    """A serialised model with its digest among its metadata, in place of an earlier one."""
    stream = io.BytesIO(content)
    kept = b"".join(
        content[field.start : field.end]
        for field in _top_level(stream, len(content))
        if field.entry is None or field.entry[0] != DIGEST_KEY
    )
    digest = _digest(io.BytesIO(kept), len(kept))
    entry = _text_field(_KEY_FIELD, DIGEST_KEY) + _text_field(_VALUE_FIELD, digest)
    return kept + bytes([_METADATA_FIELD << 3 | 2, len(entry)]) + entry


def _text_field(number: int, text: str) -> bytes:
    """Of less than 128 bytes, whose length is one."""
    return bytes([number << 3 | 2, len(text)]) + text.encode()


def _digest(stream: BinaryIO, size: int) -> str:
    """Over all fields but metadata that are not ours, block by block: a mapped file would count as our memory."""
    digest = hashlib.sha256()
    for field in _top_level(stream, size):
        if field.entry is not None and field.entry[0] != SPEC_KEY:
            continue
        stream.seek(field.start)
        for position in range(field.start, field.end, _BLOCK_BYTES):
            digest.update(stream.read(min(_BLOCK_BYTES, field.end - position)))
    return digest.hexdigest()


def has_intact_digest(path: Path) -> bool:
    """Whether an ONNX file is as it was written; False for one that carries no digest, of an earlier release.

    Raises:
        BundleError: it is no ONNX model, or a weight, an operator or its spec is another than when it was written.
    """
    recorded = read_onnx_metadata(path).get(DIGEST_KEY)
    if recorded is None:
        return False
    with path.open("rb") as stream:
        found = _digest(stream, path.stat().st_size)
    if found != recorded:
        raise BundleError(
            f"{path} differs from the graph that was exported (its sha256 is {found[:12]}, its metadata say "
            f"{recorded[:12]}); copy it again, or export it again"
        )
    return True


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
