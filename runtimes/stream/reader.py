"""The thread between a source and the engine: decoding goes on while the engine computes.

A live source keeps one frame, the newest; what it replaces is counted as dropped. A file keeps all, and its thread
waits when the queue holds enough bytes. The thread is a daemon that owns the source: a read that hangs in a driver can
keep neither the consumer nor the end of the process waiting.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from brixel_edge.errors import SourceError
from brixel_edge.runtimes.sources.frames import Frame, FrameSource

Prepared = TypeVar("Prepared")


@dataclass(frozen=True, kw_only=True)
class Arrival(Generic[Prepared]):
    """A frame with what was made of it in the reader's thread.

    Attributes:
        frame: as the source gave it.
        prepared: what `prepare` returned; None for live frames, which are prepared only if they are used.
        preprocess_s: what that took [s].
        size_bytes: of both.
    """

    frame: Frame
    prepared: Prepared | None
    preprocess_s: float
    size_bytes: int


class FrameReader(Generic[Prepared]):
    """Reads a source in a thread of its own.

    Args:
        source: read, interrupted and closed here.
        prepare: work to do on each frame of a file in this thread; returns the result and its size in bytes.
        queue_bytes: bound on what waits; one frame may always wait.
        max_age_s: older frames of a live source are dropped, not given out.
        stall_s: without a frame for so long a live source counts as lost.
    """

    def __init__(
        self,
        source: FrameSource,
        prepare: Callable[[Frame], tuple[Prepared, int]],
        queue_bytes: int,
        max_age_s: float = 1.0,
        stall_s: float = 60.0,
    ) -> None:
        self._source = source
        self._prepare = prepare
        self._queue_bytes = queue_bytes
        self._max_age_s, self._stall_s = max_age_s, stall_s
        self._waiting: deque[Arrival[Prepared]] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        self.frames_in = self.dropped = self.gaps = 0
        self._thread = threading.Thread(target=self._run, name="brixel-reader", daemon=True)
        self._thread.start()

    def take(self) -> Arrival[Prepared] | None:
        """The next frame, or the newest one, waiting for it; None at the end.

        Raises:
            BrixelError: what ended the source.
        """
        deadline_s = time.monotonic() + self._stall_s
        with self._changed:
            while True:
                while self._waiting:
                    arrival = self._waiting.popleft()
                    self._changed.notify_all()
                    if not self._is_stale(arrival):
                        return arrival
                    self.dropped += 1
                if self._error is not None:
                    raise self._error
                if self._ended or self._stopped:
                    return None
                if self._source.is_live and time.monotonic() > deadline_s:
                    raise SourceError(f"{self._source.description} gave no frame for {self._stall_s:.0f} s")
                self._changed.wait(0.5)

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop reading; waits for the thread for a bounded time only."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._source.interrupt()
        self._thread.join(timeout_s)

    def _is_stale(self, arrival: Arrival[Prepared]) -> bool:
        return self._source.is_live and time.monotonic() - arrival.frame.t_capture_s > self._max_age_s

    def _run(self) -> None:
        try:
            while not self._stopped and (frame := self._source.read()) is not None:
                self._put(self._arrival(frame))
        except BaseException as error:
            # Handed to the consumer, which raises it; nothing may end this thread silently.
            self._error = error
        finally:
            self._source.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _arrival(self, frame: Frame) -> Arrival[Prepared]:
        if self._source.is_live:
            return Arrival(frame=frame, prepared=None, preprocess_s=0.0, size_bytes=frame.image.nbytes)
        start = time.monotonic()
        prepared, size = self._prepare(frame)
        taken_s = time.monotonic() - start
        return Arrival(frame=frame, prepared=prepared, preprocess_s=taken_s, size_bytes=size + frame.image.nbytes)

    def _put(self, arrival: Arrival[Prepared]) -> None:
        with self._changed:
            self.frames_in += 1
            self.gaps += arrival.frame.is_after_gap
            if self._source.is_live:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            while self._is_full(arrival) and not self._stopped:
                self._changed.wait()
            self._waiting.append(arrival)
            self._changed.notify_all()

    def _is_full(self, arrival: Arrival[Prepared]) -> bool:
        held = sum(waiting.size_bytes for waiting in self._waiting)
        return bool(self._waiting) and held + arrival.size_bytes > self._queue_bytes
