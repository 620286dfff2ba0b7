"""A source in a process of its own, which can be killed: a driver that hangs for ever then holds no thread of ours.

Frames come through shared memory; what is said about them comes through a pipe. The address goes in through stdin, for
everybody may read a process's arguments. The other side is `source_process`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any

from brixel_edge.errors import BackendMissing, SourceError, SpecError
from brixel_edge.machine.addresses import label_from_address
from brixel_edge.machine.child_process import ChildProcess
from brixel_edge.machine.memory import own_peak_bytes_of
from brixel_edge.runtimes.sources.frame_slots import SLOTS, FrameSlots, open_shared_memory
from brixel_edge.runtimes.sources.frames import Frame, FrameMemory, SourceStatus

_LOG = logging.getLogger(__name__)
MODULE = "brixel_edge.runtimes.sources.source_process"
# Silence after which the process is killed: while libraries load (a machine's first GStreamer looks at every plugin),
# while the source opens, and between two frames.
_LOAD_S, _OPEN_S, _SILENCE_S = 60.0, 10.0, 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_POLL_S = 0.1
# A reader that comes back after a pause finds old frames in the slots.
_PAUSE_S = 0.2
_ERRORS = {error.__name__: error for error in (SpecError, BackendMissing)}


class ChildSource:
    """What a pipeline or a camera gives, from another process; started again when it dies or falls silent.

    Args:
        text: the address.
        reconnect_s: for how long it is tried again [s].

    Raises:
        BrixelError: it does not open, or gives no frame.
    """

    is_live = True
    skipped = 0

    def __init__(self, text: str, reconnect_s: float) -> None:
        self._text, self._reconnect_s = text, reconnect_s
        self.description = label_from_address(text)
        self.fps: float | None = None
        self.status = SourceStatus()
        self._stop = threading.Event()
        self._child: ChildProcess | None = None
        self._slots: FrameSlots | None = None
        self._index = self._process_bytes = 0
        self._after_gap = False
        self._thrown: dict[str, Any] | None = None
        self._start_s = self._asked_s = time.monotonic()
        try:
            self._pending = self._opened()
        except BaseException:
            self.close()
            raise
        self._shape: tuple[int, ...] = (
            tuple(self._pending["shape"]) if self._pending and "shape" in self._pending else ()
        )

    def read(self) -> Frame | None:
        """The next frame; None after `interrupt` and at the end.

        Raises:
            SourceError: lost for longer than the patience.
        """
        message, self._pending = self._pending, None
        while not self._stop.is_set():
            try:
                if time.monotonic() - self._asked_s > _PAUSE_S:
                    message = self._newest(message)
                message = message or self._next(_SILENCE_S)
            except SourceError as error:
                message = self._again(error)
            if message is not None and "end" in message:
                # All that there was came in the pause: the last of it is better than nothing.
                message, self._thrown = self._thrown, None
                self._pending = {"end": True}
            frame = self._frame(message) if message is not None else None
            self._asked_s = time.monotonic()
            return frame
        return None

    def _newest(self, message: dict[str, Any] | None) -> dict[str, Any] | None:
        """Throw away what waits in the slots since before a pause; what is left is something else than a frame."""
        while True:
            if message is None:
                message = self._heard(0.0)
            if message is None or "shape" not in message:
                return message
            self._free()
            self._count(message["drained"] + 1)
            self._thrown, message = {**message, "drained": -1}, None

    def _opened(self) -> dict[str, Any] | None:
        """Start a process; the message of its first frame.

        Raises:
            BrixelError: it does not open, or gives none.
        """
        memory = open_shared_memory()
        self._slots = FrameSlots(memory)
        self._child = ChildProcess(MODULE, self.description, [memory])
        with contextlib.suppress(OSError):  # what it says at its end tells more
            self._child.tell(self._text.encode() + b"\n")
        message = self._next(_LOAD_S)
        if message is not None and "loaded" in message:
            message = self._next(_OPEN_S)
        if message is not None and "opened" in message:
            self.description, self.fps = message["opened"], message["fps"]
            message = self._next(_OPEN_S)
        return message

    def _next(self, patience_s: float) -> dict[str, Any] | None:
        """The next message; None after `interrupt`.

        Raises:
            BrixelError: the process's, or that it fell silent.
        """
        deadline_s = time.monotonic() + patience_s
        while not self._stop.is_set():
            if (message := self._heard(_POLL_S)) is not None:
                return message
            if time.monotonic() > deadline_s:
                raise SourceError(f"{self.description} gave nothing for {patience_s:.0f} s", kind="timeout")
        return None

    def _heard(self, timeout_s: float) -> dict[str, Any] | None:
        assert self._child is not None
        try:
            message = self._child.hear(timeout_s)
        except EOFError:
            raise SourceError(f"{self.description}: its process ended", kind="end") from None
        if message is not None and "warning" in message:
            _LOG.warning("%s", message["warning"])
            return None
        if message is not None and "error" in message:
            text = label_from_address(message["error"])
            kind = _ERRORS.get(message["class"])
            raise kind(text) if kind else SourceError(text, kind=message["kind"])
        return message

    def _again(self, error: SourceError) -> dict[str, Any] | None:
        """Kill the process and start others, until one gives a frame.

        Raises:
            SourceError: the patience has ended.
        """
        lost_s, pause_s = time.monotonic(), _FIRST_PAUSE_S
        _LOG.warning("%s is lost (%s); trying again for %.0f s", self.description, error.kind, self._reconnect_s)
        while True:
            self.status.failure = error.kind or "end"
            self.close()
            if self._stop.wait(pause_s):
                return None
            try:
                message = self._opened()
            except SourceError as failed:
                error = failed
            else:
                self.status.failure, self._after_gap = None, True
                self.status.reconnects += 1
                _LOG.warning("%s is back after %.1f s", self.description, time.monotonic() - lost_s)
                return message
            if time.monotonic() - lost_s > self._reconnect_s:
                raise SourceError(f"{error}; lost for {self._reconnect_s:.0f} s", kind=error.kind)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _frame(self, message: dict[str, Any]) -> Frame:
        assert self._slots is not None
        image = self._slots.read(message["slot"], tuple(message["shape"]))
        self._free()
        self._count(message["drained"])
        index, self._index = self._index, self._index + 1
        after_gap, self._after_gap = self._after_gap or message["is_after_gap"], False
        self._thrown = None
        taken_s = message["t_capture_s"]
        return Frame(
            image=image, index=index, t_capture_s=taken_s, t_stream_s=message["t_stream_s"],
            t_media_s=max(0.0, taken_s - self._start_s), capture_s=message["capture_s"], is_after_gap=after_gap,
        )  # fmt: skip

    def _free(self) -> None:
        """Tell the process that a slot is free again."""
        assert self._child is not None
        with contextlib.suppress(OSError):
            self._child.tell(b"\n")

    def _count(self, thrown: int) -> None:
        """Frames that nobody gets have their numbers, and count as dropped."""
        self._index += thrown
        self.status.drained += thrown

    def memory(self) -> FrameMemory:
        """The slots, in the size of the first frame, and the process, which has given one."""
        size = 3 * self._shape[0] * self._shape[1] if self._shape else 0
        self._measure()
        # A pipeline takes as much again once its frames flow.
        return FrameMemory(frame_bytes=size, own_bytes=2 * SLOTS * size, process_bytes=self._process_bytes)

    def _measure(self) -> None:
        """What the process took, which is known only while it runs; the most of all that were started."""
        child = self._child  # which a thread that closes may take away
        if child is not None:
            self._process_bytes = max(self._process_bytes, own_peak_bytes_of(child.pid) or 0)

    def interrupt(self) -> None:
        """End a wait; `close` kills what hangs."""
        self._stop.set()

    def close(self) -> None:
        """Kill the process."""
        self._measure()
        child, self._child = self._child, None
        if child is not None:
            child.kill()
        if self._slots is not None:
            self._slots.close()
            self._slots = None
