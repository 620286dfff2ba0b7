"""The process that `ChildSource` starts: it opens a pipeline or a camera, and hands its frames on.

Started as `python -m brixel_edge.runtimes.sources.source_process PIPE MEMORY`, with the address on stdin, then a byte
for each slot that is free again.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import IO, Any

from brixel_edge.errors import BrixelError
from brixel_edge.machine.addresses import label_from_address
from brixel_edge.machine.child_process import say
from brixel_edge.runtimes.sources.camera import CameraSource
from brixel_edge.runtimes.sources.camera_address import parse_camera
from brixel_edge.runtimes.sources.frame_slots import SLOTS, FrameSlots
from brixel_edge.runtimes.sources.frames import Frame, status_of
from brixel_edge.runtimes.sources.gstreamer import (
    PipelineSource,
    is_gstreamer_address,
    load_gstreamer,
    pipeline_from_address,
)

# After a change of the frames' size all slots must be free first; a parent that takes none for so long misses frames.
_RESIZE_S = 1.0


class _Slots:
    """The slots as the writer sees them."""

    def __init__(self, descriptor: int) -> None:
        self._slots = FrameSlots(descriptor)
        self._free = threading.Semaphore(SLOTS)
        self._next, self._size = 0, 0
        # The parent took a frame; or it is gone, and so are we, whatever the other thread hangs in.
        threading.Thread(target=self._count_freed, daemon=True).start()

    def _count_freed(self) -> None:
        while os.read(0, 1):
            self._free.release()
        os._exit(0)

    def put(self, frame: Frame) -> int | None:
        """The number of the slot; None where none is free."""
        if frame.image.nbytes != self._size and not self._empty():
            return None
        self._size = frame.image.nbytes
        if not self._free.acquire(blocking=False):
            return None
        number, self._next = self._next, (self._next + 1) % SLOTS
        self._slots.write(number, frame.image)
        return number

    def _empty(self) -> bool:
        """Wait until the parent has taken all, for they lie where the new ones will."""
        taken = 0
        while taken < SLOTS and self._free.acquire(timeout=_RESIZE_S):
            taken += 1
        if taken:
            self._free.release(taken)
        return taken == SLOTS


class _Teller(logging.Handler):
    """Warnings go to the parent, whose log is the user's."""

    def __init__(self, pipe: IO[str]) -> None:
        super().__init__(logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        say(self._pipe, warning=record.getMessage())


def _open(text: str, pipe: IO[str]) -> Any:
    """Say when the libraries are there, for what they take is no delay of the source."""
    if is_gstreamer_address(text):
        pipeline, gst = pipeline_from_address(text), load_gstreamer()
        say(pipe, loaded=True)
        return PipelineSource(gst, pipeline, text)
    say(pipe, loaded=True)
    # Without patience: the parent starts another process.
    return CameraSource(parse_camera(text), None)


def _serve(text: str, pipe: IO[str], descriptor: int) -> None:
    """Read, and say so, while a slot is free; the frames in between count as drained."""
    source = _open(text, pipe)
    say(pipe, opened=label_from_address(source.description), fps=source.fps)
    slots, missed, drained = _Slots(descriptor), 0, 0
    is_after_gap = False
    while (frame := source.read()) is not None:
        is_after_gap |= frame.is_after_gap
        if (slot := slots.put(frame)) is None:
            missed += 1
            continue
        before, drained = drained, status_of(source).drained
        say(
            pipe, slot=slot, shape=frame.image.shape, drained=missed + drained - before, is_after_gap=is_after_gap,
            t_capture_s=frame.t_capture_s, t_stream_s=frame.t_stream_s, capture_s=frame.capture_s,
        )  # fmt: skip
        missed, is_after_gap = 0, False
    say(pipe, end=True)


def _address() -> str:
    """The first line of stdin, read byte by byte: what follows is for another thread."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def main() -> None:
    """The child; its arguments are descriptors."""
    with os.fdopen(int(sys.argv[1]), "w") as pipe:
        logging.getLogger().addHandler(_Teller(pipe))
        text = _address()
        try:
            _serve(text, pipe, int(sys.argv[2]))
        except BrixelError as error:
            what = f"{label_from_address(text)}: {error}" if is_gstreamer_address(text) else str(error)
            say(pipe, error=what, kind=getattr(error, "kind", None), **{"class": type(error).__name__})
    # A library's thread may hang in a driver; the interpreter would wait for it.
    os._exit(0)


if __name__ == "__main__":
    main()
