"""A file played at its own pace, for policies that drop frames: unpaced, decoding would outrun any engine."""

from __future__ import annotations

import dataclasses
import threading
import time

from brixel_edge.runtimes.sources.frames import Frame, FrameMemory, FrameSource, memory_of


class PacedSource:
    """The frames of a file when their time has come, stamped then, as of a camera that shows the file.

    Args:
        source: gives its frames' places on its time line; read and closed here.
    """

    is_live = True

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._stop = threading.Event()
        self._start_s: float | None = None

    @property
    def description(self) -> str:
        """That of the file."""
        return self._source.description

    @property
    def fps(self) -> float | None:
        """Of the file."""
        return self._source.fps

    @property
    def skipped(self) -> int:
        """Of the file."""
        return self._source.skipped

    def read(self) -> Frame | None:
        """The next frame when it is due; None at the end.

        Raises:
            BundleError: the file turns out not to be what it should be.
        """
        frame = self._source.read()
        if frame is None:
            return None
        if self._start_s is None:
            self._start_s = time.monotonic() - frame.t_media_s
        due_s, now_s = self._start_s + frame.t_media_s, time.monotonic()
        if self._stop.wait(max(0.0, due_s - now_s)):
            return None
        # Where decoding is too slow, the film is shown as slowly.
        self._start_s += max(0.0, now_s - due_s)
        return dataclasses.replace(frame, t_capture_s=max(due_s, now_s))

    def memory(self) -> FrameMemory:
        """That of the file."""
        return memory_of(self._source)

    def interrupt(self) -> None:
        """End the wait for the next frame."""
        self._stop.set()
        self._source.interrupt()

    def close(self) -> None:
        """Close the file."""
        self._source.close()
