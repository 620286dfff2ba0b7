"""A source in a process of its own, which can be killed: a driver that hangs for ever then holds no thread of ours.

Frames come through shared memory, three slots in turn; what is said about them comes through a pipe, one JSON a line.
The address goes in through stdin, for everybody may read a process's arguments.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker, shared_memory
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing, BrixelError, SourceError, SpecError
from brixel_edge.machine.addresses import label_from_address
from brixel_edge.runtimes.sources.frames import Frame, SourceStatus

_LOG = logging.getLogger(__name__)
_SLOTS = 3
# Silence after which the process is killed: opening, and between two frames.
_OPEN_S, _SILENCE_S = 10.0, 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_POLL_S = 0.1
_ERRORS = {error.__name__: error for error in (SpecError, BackendMissing)}


class ChildSource:
    """What `PipelineSource` gives, from another process; started again when it dies or falls silent.

    Args:
        text: the address.
        reconnect_s: for how long it is tried again [s].
    """

    is_live = True
    skipped = 0
    fps = None

    def __init__(self, text: str, reconnect_s: float) -> None:
        self._text, self._reconnect_s = text, reconnect_s
        self.description = label_from_address(text)
        self.status = SourceStatus()
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._memory: shared_memory.SharedMemory | None = None
        self._index = 0
        self._after_gap = False
        self._start_s = time.monotonic()
        self._start()
        try:
            self._pending = self._next(_OPEN_S)
        except BaseException:
            self.close()
            raise

    def read(self) -> Frame | None:
        """The next frame; None after `interrupt` and at the pipeline's end.

        Raises:
            SourceError: lost for longer than the patience.
        """
        message, self._pending = self._pending, None
        while not self._stop.is_set():
            try:
                message = message or self._next(_SILENCE_S)
            except SourceError as error:
                message = self._again(error)
            if message is None or "end" in message:
                return None
            return self._frame(message)
        return None

    def _start(self) -> None:
        reading, writing = os.pipe()
        self._lines: IO[str] = os.fdopen(reading)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "brixel_edge.runtimes.sources.child", str(writing)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
            pass_fds=(writing,),
        )  # fmt: skip
        os.close(writing)
        assert self._process.stdin is not None
        self._process.stdin.write(self._text + "\n")
        self._process.stdin.flush()

    def _next(self, patience_s: float) -> dict[str, Any] | None:
        """The next message; None after `interrupt`.

        Raises:
            BrixelError: the process's, or that it fell silent.
        """
        deadline_s = time.monotonic() + patience_s
        with selectors.DefaultSelector() as ready:
            ready.register(self._lines, selectors.EVENT_READ)
            while not ready.select(_POLL_S):
                if self._stop.is_set():
                    return None
                if time.monotonic() > deadline_s:
                    raise SourceError(f"{self.description} gave nothing for {patience_s:.0f} s", kind="timeout")
        line = self._lines.readline()
        if not line:
            raise SourceError(f"{self.description}: its process ended", kind="end")
        message = json.loads(line)
        if "error" in message:
            text = f"{self.description}: {label_from_address(message['error'])}"
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
            self._start()
            try:
                message = self._next(_OPEN_S)
            except SourceError as failed:
                error = failed
            else:
                self.status.failure, self._after_gap = None, True
                self.status.reconnects += 1
                return message
            if time.monotonic() - lost_s > self._reconnect_s:
                raise SourceError(f"{error}; lost for {self._reconnect_s:.0f} s", kind=error.kind)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _frame(self, message: dict[str, Any]) -> Frame:
        shape, slot = tuple(message["shape"]), message["slot"]
        size = int(np.prod(shape))
        memory = self._attached(message["memory"])
        view = np.ndarray(shape, np.uint8, memory.buf, slot * size)
        image: NDArray[np.uint8] = view.copy()
        del view
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write("\n")  # the slot is free again
            self._process.stdin.flush()
        index, self._index = self._index, self._index + 1
        after_gap, self._after_gap = self._after_gap, False
        taken_s = message["t_capture_s"]
        return Frame(
            image=image, index=index, t_capture_s=taken_s, t_stream_s=message["t_stream_s"],
            t_media_s=max(0.0, taken_s - self._start_s), capture_s=message["capture_s"], is_after_gap=after_gap,
        )  # fmt: skip

    def _attached(self, name: str) -> shared_memory.SharedMemory:
        if self._memory is None or self._memory.name != name:
            if self._memory is not None:
                self._memory.close()
            self._memory = shared_memory.SharedMemory(name)
            # The child made it, and its own tracker removes it, even when the child is killed.
            resource_tracker.unregister(self._memory._name, "shared_memory")  # type: ignore[attr-defined]
        return self._memory

    def interrupt(self) -> None:
        """End a wait; `close` kills what hangs."""
        self._stop.set()

    def close(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            self._lines.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _serve(text: str, say: IO[str]) -> None:
    """The child's part: read, and say so, while a slot is free."""
    from brixel_edge.runtimes.sources.gstreamer import PipelineSource

    source = PipelineSource(text)
    memory: shared_memory.SharedMemory | None = None
    free = threading.Semaphore(_SLOTS)
    # The parent's end: it took a frame, or it is gone and so are we.
    threading.Thread(target=_count_freed, args=(free,), daemon=True).start()
    slot = 0
    while (frame := source.read()) is not None:
        if not free.acquire(blocking=False):
            continue  # the parent will want the newest
        size = frame.image.nbytes
        if memory is None or memory.size < _SLOTS * size:
            if memory is not None:
                memory.close()
                memory.unlink()
            memory = shared_memory.SharedMemory(create=True, size=_SLOTS * size)
        np.ndarray(frame.image.shape, np.uint8, memory.buf, slot * size)[...] = frame.image
        _say(say, memory=memory.name, slot=slot, shape=frame.image.shape, t_capture_s=frame.t_capture_s,
             t_stream_s=frame.t_stream_s, capture_s=frame.capture_s)  # fmt: skip
        slot = (slot + 1) % _SLOTS
    _say(say, end=True)


def _count_freed(free: threading.Semaphore) -> None:
    while sys.stdin.readline():
        free.release()
    os._exit(0)


def _say(pipe: IO[str], **message: Any) -> None:
    pipe.write(json.dumps(message) + "\n")
    pipe.flush()


def main() -> None:
    """The child: address on stdin, messages to the descriptor that is its argument."""
    with os.fdopen(int(sys.argv[1]), "w") as say:
        try:
            _serve(sys.stdin.readline().rstrip("\n"), say)
        except BrixelError as error:
            _say(say, error=str(error), kind=getattr(error, "kind", None), **{"class": type(error).__name__})


if __name__ == "__main__":
    main()
