"""A recording as a source: its frames with the features that were recorded of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from brixel_edge.errors import BundleError
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.recordings.recording import load_recording
from brixel_edge.runtimes.sources.frames import Frame, FrameMemory

# Of the features: a chunk, and the messages that it is cut into.
_COPIES = 2


class RecordingSource:
    """The frames of an MCAP file, which a stream hands out with their recorded features.

    Raises:
        BundleError: no such file, none of ours, or nothing in it.
    """

    is_live = False
    skipped = 0
    fps = None

    def __init__(self, path: Path) -> None:
        self.recording = load_recording(path)
        self._path = path
        self._maps: Iterator[FeatureMap] = iter(self.recording)
        self._index = 0
        self._t_media_s = 0.0
        first = next(self._maps, None)
        if first is None:
            raise BundleError(f"{path} is a recording without a frame")
        self._pending: FeatureMap | None = first
        self._first_utc_s = first.t_utc_s or 0.0
        # Where no engine computes, frames are taken as they come, and none queue up.
        self._memory = FrameMemory(
            frame_bytes=3 * first.frame_size[0] * first.frame_size[1],
            own_bytes=_COPIES * (first.values.nbytes + (0 if first.answer is None else first.answer.nbytes)),
            may_queue=False,
        )
        height, width = first.frame_size
        self.description = f"{path} (recording of {self.recording.model.name}, {width}x{height})"

    def read(self) -> Frame | None:
        """The next frame; None after the last.

        Raises:
            BundleError: the file is damaged.
        """
        start_s = time.monotonic()
        features, self._pending = self._pending or next(self._maps, None), None
        if features is None:
            return None
        if features.frame_bgr is None:
            raise BundleError(
                f"{self._path} has features without their frames; read it with brixel_edge.load_recording"
            )
        index, self._index = self._index, self._index + 1
        # Sources that were recorded together are not always in order.
        self._t_media_s = max(self._t_media_s, (features.t_utc_s or 0.0) - self._first_utc_s)
        return Frame(
            image=np.asarray(features.frame_bgr, np.uint8),
            index=index,
            t_capture_s=start_s,
            t_media_s=self._t_media_s,
            capture_s=time.monotonic() - start_s,
            t_stream_s=features.t_stream_s,
            is_after_gap=features.is_after_gap,
            recorded=features,
        )

    def memory(self) -> FrameMemory:
        """By the first frame."""
        return self._memory

    def interrupt(self) -> None:
        """A file does not wait."""

    def close(self) -> None:
        """Close the file."""
        close = getattr(self._maps, "close", None)
        if callable(close):
            close()
