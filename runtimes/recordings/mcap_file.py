"""Features, pictures and times of a run as one MCAP file, which Foxglove and ROS 2's tools open.

A chunk goes to the disk as soon as it is full, which a map of 64 x 64 cells makes it: what is there can be read at any
moment, after a full disk, a killed process, a power cut. What comes last, the index, is only for those who seek.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brixel_edge.errors import BackendMissing
from brixel_edge.machine.files import UnbufferedFile
from brixel_edge.machine.new_file import NewFile
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.recordings.answers import ANSWER_FIELDS, ANSWER_TYPE, answer_message
from brixel_edge.runtimes.recordings.facts import METADATA_NAME, RecordedModel
from brixel_edge.runtimes.recordings.messages import (
    FEATURES_FIELDS,
    FEATURES_TYPE,
    PICTURE_FIELDS,
    PICTURE_TYPE,
    RecordedPrecision,
    features_message,
    picture_message,
    schema_from_fields,
    utc_ns,
)

# Small maps share a chunk; each that is closed costs less than 1 KB of memory until the end.
CHUNK_BYTES = 1 << 16
_SEQUENCE_BITS = 32
# By topic, in the order in which they are written: the features, which complete a frame, come last.
_KINDS = {
    "/image": (PICTURE_TYPE, PICTURE_FIELDS),
    "/answer": (ANSWER_TYPE, ANSWER_FIELDS),
    "/features": (FEATURES_TYPE, FEATURES_FIELDS),
}


def check_mcap() -> None:
    """Refuse where the library is not installed.

    Raises:
        BackendMissing: it is not.
    """
    try:
        import mcap.writer  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise BackendMissing(
            f"recordings of features need mcap ({error}): pip install 'brixel-edge[record]'"
        ) from error


class McapFile(NewFile):
    """A recording that is being written.

    Args:
        path: the target.
        model: whose features they are.
        precision: in which features are kept; None for that in which they were computed.

    Raises:
        BundleError: the file cannot be made.
    """

    def __init__(self, path: Path, model: RecordedModel, precision: RecordedPrecision | None) -> None:
        from mcap.writer import CompressionType, Writer

        super().__init__(path)
        self._precision: RecordedPrecision | None = precision
        self._digest = model.spec.digest
        self._topics = [topic for topic in _KINDS if topic != "/answer" or model.spec.head is not None]
        self._channels: dict[str | None, dict[str, int]] = {}
        self._is_broken = self._is_closed = False
        self._given = 0
        try:
            self._target = UnbufferedFile(self.temporary)
            # Neither features nor JPEGs become much smaller, and a board has no time for it.
            self._writer = Writer(self._target, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)  # type: ignore[arg-type]  # all it needs is write and tell
            self._writer.start(profile="ros2", library="brixel-edge")
            self._writer.add_metadata(METADATA_NAME, model.to_metadata())
        except OSError as error:
            raise self.failed(error) from error
        self._schemas = {
            topic: self._writer.register_schema(_KINDS[topic][0], "ros2msg", schema_from_fields(_KINDS[topic][1]))
            for topic in self._topics
        }
        self._whole_bytes = self._target.tell()

    def write(self, features: FeatureMap, name: str | None) -> None:
        """Add the features of one frame, with the frame if they carry it.

        Raises:
            BundleError: it cannot be written, or is too large for fp16; those before it are kept.
        """
        messages = {
            "/image": picture_message(features, features.frame_bgr) if features.frame_bgr is not None else None,
            "/answer": answer_message(features, self._precision),
            "/features": features_message(features, self._digest, self._precision),
        }
        channels = self._channels_of(features.source)
        try:
            for topic, message in messages.items():
                self._given += topic == "/features"
                if message is not None:
                    self._add(channels[topic], features, message)
        except OSError as error:
            self._is_broken = True
            raise self.failed(error, f" Its {self.count} frames until then are kept") from error

    def _add(self, channel: int, features: FeatureMap, message: bytes) -> None:
        stamp_ns = utc_ns(features)
        sequence = features.frame_index % (1 << _SEQUENCE_BITS)
        self._writer.add_message(channel, stamp_ns, message, stamp_ns, sequence)
        if (end := self._target.tell()) > self._whole_bytes:
            self._whole_bytes, self.count = end, self._given

    def _channels_of(self, source: str | None) -> dict[str, int]:
        """By topic; of the first source they are called so, of others `/image_2` and so on."""
        if source not in self._channels:
            number = len(self._channels) + 1
            self._channels[source] = {
                topic: self._writer.register_channel(
                    f"{topic}_{number}" if number > 1 else topic, "cdr", schema, {"source": source or ""}
                )
                for topic, schema in self._schemas.items()
            }
        return self._channels[source]

    def close(self) -> None:
        """Write the index and give the file its name; after a failed write, what is whole of it.

        Raises:
            BundleError: the end cannot be written; what came before is kept.
        """
        if self._is_closed:
            return
        self._is_closed = True
        failure: OSError | None = None
        if not self._is_broken:
            try:
                self._writer.finish()
                self.count = self._given
            except OSError as error:
                failure = error
        if self._is_broken or failure is not None:
            self._end_without_index()
        self._target.close()
        self.publish()
        if failure is not None:
            raise self.failed(failure, f" Its {self.count} frames until then are kept") from failure

    def _end_without_index(self) -> None:
        """Cut off what is not whole, and close the file as its format wants it where there is room for that."""
        from mcap.data_stream import RecordBuilder
        from mcap.records import DataEnd, Footer
        from mcap.writer import MCAP0_MAGIC

        builder = RecordBuilder()
        DataEnd(data_section_crc=0).write(builder)
        Footer(summary_start=0, summary_offset_start=0, summary_crc=0).write(builder)
        end: Any = builder.end() + MCAP0_MAGIC
        self._target.cut(self._whole_bytes)
        self._target.seek(self._whole_bytes)
        try:
            self._target.write(end)
        except OSError:
            self._target.cut(self._whole_bytes)
