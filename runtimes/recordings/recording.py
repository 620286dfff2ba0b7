"""Reading a recording: the model that it is of, and its feature maps one after the other."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from brixel_edge.errors import BundleError
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.recordings.answers import ANSWER_TYPE, answer_from_message
from brixel_edge.runtimes.recordings.facts import METADATA_NAME, RecordedModel
from brixel_edge.runtimes.recordings.mcap_file import check_mcap
from brixel_edge.runtimes.recordings.messages import FEATURES_TYPE, PICTURE_TYPE, features_from_message

_LOG = logging.getLogger(__name__)
RECORDING_SUFFIX = ".mcap"


class Recording:
    """A recording; iterate over it for its feature maps, as often as you like.

    Each map is what was recorded, to the bit, and carries its frame, which is kept as JPEG.

    Attributes:
        path: of the file.
        model: the model that it is of.
    """

    def __init__(self, path: Path, model: RecordedModel) -> None:
        self.path, self.model = path, model

    def __iter__(self) -> Iterator[FeatureMap]:
        """The maps, in the order in which they were recorded.

        Raises:
            BundleError: the file is damaged; the maps before that place have been given.
        """
        schemas: dict[int, str] = {}
        channels: dict[int, Any] = {}
        before: dict[str, dict[str, bytes]] = {}  # by source, what comes before the features of a frame
        count = 0
        for record in _records(self.path):
            kind = type(record).__name__
            if kind == "Schema":
                schemas[record.id] = record.name
            elif kind == "Channel":
                channels[record.id] = record
            elif kind == "Message":
                channel = channels[record.channel_id]
                source, schema = channel.metadata.get("source", ""), schemas.get(channel.schema_id)
                if schema in (PICTURE_TYPE, ANSWER_TYPE):
                    before.setdefault(source, {})[schema] = record.data
                elif schema == FEATURES_TYPE:
                    yield self._features(record.data, before.pop(source, {}), count)
                    count += 1

    def _features(self, message: bytes, before: dict[str, bytes], count: int) -> FeatureMap:
        answer, model = before.get(ANSWER_TYPE), self.model
        try:
            features, digest = features_from_message(
                message,
                before.get(PICTURE_TYPE),
                model.feature_space,
                None if answer is None else answer_from_message(answer),
                model.spec.head,
            )
        except ValueError as error:
            raise BundleError(f"{self.path} is damaged after {count} frames ({error})") from error
        if digest != self.model.spec.digest:
            raise BundleError(f"{self.path} has features of two models; only one can be read at a time")
        return features


def load_recording(path: str | Path) -> Recording:
    """Open a file that `brixel-run --save features.mcap` wrote, or the part of one that a killed run left.

    Raises:
        BundleError: no such file, or none of ours.
        BackendMissing: mcap is not installed.
    """
    check_mcap()
    path = Path(path).expanduser()
    for record in _records(path):
        if type(record).__name__ == "Metadata" and record.name == METADATA_NAME:
            try:
                return Recording(path, RecordedModel.from_metadata(record.metadata))
            except BundleError as error:
                raise BundleError(f"{path} is not a recording of this release: {error}") from error
        if type(record).__name__ == "Message":
            break
    raise BundleError(f"{path} has no features of brixel-run; record with brixel-run --save features.mcap")


class _WholeReads:
    """A file that gives what was asked for or says that it ends; the library takes less for all there is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, length: int) -> bytes:
        from mcap.exceptions import EndOfFile

        data = self._stream.read(length)
        if len(data) < length:
            raise EndOfFile()
        return data


def _records(path: Path) -> Iterator[Any]:
    """Every record, those in chunks too; a file that was cut short ends with its last whole chunk, and a warning.

    Raises:
        BundleError: it cannot be read.
    """
    from mcap.exceptions import EndOfFile, McapError
    from mcap.stream_reader import CRCValidationError, StreamReader

    try:
        with path.open("rb") as stream:
            reader = StreamReader(_WholeReads(stream), validate_crcs=True)  # type: ignore[arg-type]  # all it needs is read
            try:
                yield from reader.records
            except EndOfFile:
                if stream.tell() == 0:
                    raise BundleError(f"{path} is empty") from None
                _LOG.warning(
                    "%s has no end: the run was killed, or its disk was full; it is read as far as it goes", path
                )
    except (McapError, CRCValidationError, struct.error, UnicodeDecodeError, KeyError) as error:
        raise BundleError(f"{path} is not an MCAP file, or is damaged ({error})") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror or error})") from error
