"""A frame, and what gives frames."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brixel_edge.machine.memory import MIB
from brixel_edge.model.features import FeatureMap

_DECODED, _MOST_THREADS, _DECODER_BYTES = 6, 16, 9 * MIB
_GRAPH_ROWS, _BLOCK_ROWS = 256, 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        index: sequence number; counts what the source gave, from 0, dropped frames included.
        t_capture_s: when it was taken, `time.monotonic()` [s]: by the stream's stamps, or at the end of the grab.
        t_media_s: its place in the run, from 0 [s].
        capture_s: what decoding took [s].
        t_stream_s: the stream's own time stamp [s]; None where it has none.
        is_after_gap: the source was lost or silent, and came back just before.
        name: of the file, where each frame is one.
        recorded: its features, where the source is a recording; then no engine makes them.
        utc_offset_s: what makes a time of `time.monotonic()` seconds since 1970, as the clocks stood when it was taken.
    """

    image: NDArray[np.uint8] = field(repr=False)
    index: int
    t_capture_s: float
    t_media_s: float
    capture_s: float
    t_stream_s: float | None = None
    is_after_gap: bool = False
    name: str | None = None
    recorded: FeatureMap | None = field(default=None, repr=False)
    utc_offset_s: float = field(default_factory=lambda: time.time() - time.monotonic())

    @property
    def t_utc_s(self) -> float:
        """When it was taken [s since 1970, UTC]."""
        return self.t_capture_s + self.utc_offset_s


@dataclass(kw_only=True)
class SourceStatus:
    """What a live source says of itself while it is read; written by its reader, read by others.

    Attributes:
        drained: frames that were only read to empty old buffers; they have index numbers, and count as dropped.
        reconnects: how often it was opened again.
        failure: why it is not open now; None while it is.
    """

    drained: int = 0
    reconnects: int = 0
    failure: str | None = None


def status_of(source: object) -> SourceStatus:
    """The status of a source; that of one which keeps none is empty."""
    status = getattr(source, "status", None)
    return status if isinstance(status, SourceStatus) else SourceStatus()


@dataclass(frozen=True, kw_only=True)
class FrameMemory:
    """What the frames of a source take [bytes].

    Attributes:
        frame_bytes: the largest frame.
        own_bytes: what the source holds beside the frames that it gave: a decoder's pictures and buffers.
        count: of frames, where few; None for many.
        may_queue: whether several may wait, for every one is used; else the newest does alone.
        process_bytes: what a process of the source's own has taken so far.
    """

    frame_bytes: int
    own_bytes: int = 0
    count: int | None = None
    may_queue: bool = True
    process_bytes: int = 0

    @classmethod
    def of_video(cls, height: int, width: int) -> FrameMemory:
        """Of OpenCV's FFmpeg.

        It keeps one picture of its own as BGR, and decoded ones as YUV of 1.5 bytes a pixel: 7 with one reference and
        11 with four of them and three B-frames, measured on two processors from VGA to 4K; a processor has one in work.
        Which of the two is not told before, so it is the middle.
        """
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        pixels = height * width
        own_bytes = 3 * pixels + (_DECODED + min(processors, _MOST_THREADS)) * pixels * 3 // 2 + _DECODER_BYTES
        return cls(frame_bytes=3 * pixels, own_bytes=own_bytes)


def fitting_bytes(height: int, width: int) -> int:
    """What bringing a frame to a graph of 256 rows takes: rows as float32, and those of one block before."""
    return 12 * width * (_GRAPH_ROWS + _BLOCK_ROWS * height // _GRAPH_ROWS)


def memory_of(source: object) -> FrameMemory:
    """What a source says of its frames; one that does not know is taken for a full-HD stream."""
    memory = getattr(source, "memory", None)
    told = memory() if callable(memory) else None
    return told if isinstance(told, FrameMemory) else FrameMemory.of_video(1080, 1920)


class FrameSource(Protocol):
    """Something that gives frames. One thread reads it and closes it."""

    @property
    def description(self) -> str:
        """What the user's string turned out to be, without passwords."""
        ...

    @property
    def is_live(self) -> bool:
        """Whether it goes on when nobody reads."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames a second as the source announces them; None if it does not."""
        ...

    @property
    def skipped(self) -> int:
        """Frames or files that could not be read."""
        ...

    def read(self) -> Frame | None:
        """The next frame, waiting for it; None at the end.

        Raises:
            SourceError: lost for good.
            BundleError: the files turn out not to be what they should be.
        """
        ...

    def interrupt(self) -> None:
        """Make a waiting `read` in another thread return soon."""
        ...

    def close(self) -> None:
        """Let go of the camera or file."""
        ...
