"""A window in a process of its own: who loses the X connection is ended by Xlib, and that must not be the run.

A viewer that hangs or is slow costs the run nothing either: it gets the newest picture when it can take one.
"""

from __future__ import annotations

import logging
import sys
import threading

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing
from brixel_edge.machine.child_process import ChildProcess
from brixel_edge.runtimes.pictures.events import Click, KeyPress, WindowEvent
from brixel_edge.runtimes.pictures.window import Window, has_display, has_opencv_gui, has_tk, open_window

_LOG = logging.getLogger(__name__)
MODULE = "brixel_edge.runtimes.pictures.viewer"
_GRACE_S = 0.3


class WindowProcess:
    """The parent's side.

    Attributes:
        is_open: whether the user still wants it.
        is_lost: whether it is gone although nobody closed it.
    """

    def __init__(self, title: str) -> None:
        self.is_open, self.is_lost = True, False
        self._has_appeared = self._is_closed = False
        self._events: list[WindowEvent] = []
        self._changed = threading.Condition()
        self._picture: NDArray[np.uint8] | None = None
        self._child = ChildProcess(MODULE, "the window")
        self._thread = threading.Thread(target=self._hand_on, args=(title,), name="brixel-window", daemon=True)
        self._thread.start()

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Hand a picture on, which must not be changed; the newest replaces one that still waits."""
        with self._changed:
            self._picture = picture
            self._changed.notify()
        self.poll()

    def take_events(self) -> list[WindowEvent]:
        """Clicks and keys since the last call."""
        events, self._events = self._events, []
        return events

    def poll(self) -> None:
        """Hear what the user did, whether it was closed, or is gone."""
        if self._is_closed or self.is_lost or not self.is_open:
            return
        try:
            while (message := self._child.hear(0.0)) is not None:
                self._has_appeared |= "opened" in message
                self.is_open &= "closed" not in message
                if "click" in message:
                    self._events.append(Click(**message["click"]))
                if "key" in message:
                    self._events.append(KeyPress(key=message["key"]))
                if "none" in message:
                    self._lose(f"no window: {message['none']}; use --save, or --headless to say that none is wanted")
        except EOFError:
            if self.is_open and not self.is_lost:
                what = "the window is gone, perhaps with its display" if self._has_appeared else "no window came"
                self._lose(f"{what}; the run goes on without it")

    def _lose(self, message: str) -> None:
        self.is_lost = True
        _LOG.warning("%s", message)

    def _hand_on(self, title: str) -> None:
        try:
            self._child.tell(title.encode() + b"\n")
            while (picture := self._next()) is not None:
                height, width = picture.shape[:2]
                self._child.tell(f"{height} {width}\n".encode())
                self._child.tell(np.ascontiguousarray(picture).tobytes())
        except OSError:
            pass  # it is gone, which `poll` says

    def _next(self) -> NDArray[np.uint8] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._picture is not None or self._is_closed)
            picture, self._picture = self._picture, None
            return None if self._is_closed else picture

    def close(self) -> None:
        """Remove it; a second call does nothing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self.is_open = False
        self._child.kill()
        self._thread.join(_GRACE_S)


def open_viewer(title: str) -> Window | None:
    """A window for pictures, or None where there is no display or nothing that can draw."""
    if not has_display():
        return None
    if not has_opencv_gui() and not has_tk():
        _LOG.warning("no window: this cv2 has none and Python has no tkinter (apt install python3-tk); use --save")
        return None
    if sys.platform.startswith("linux"):
        return WindowProcess(title)
    try:
        return open_window(title)
    except BackendMissing as error:
        _LOG.warning("no window: %s; use --save, or --headless to say that none is wanted", error)
        return None
