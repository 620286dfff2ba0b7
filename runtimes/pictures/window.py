"""A window, where there is a display: OpenCV's if this cv2 has one, else tkinter's from the standard library.

Whether there is a display is asked before either is touched: Qt, which some builds of OpenCV use, ends the process
when there is none, and no exception says so.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import sys
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing
from brixel_edge.runtimes.pictures.events import Click, KeyPress, WindowEvent

_QUIT_KEYS = (27, ord("q"))  # Esc, q


class Window(Protocol):
    """Shows pictures; for the main thread only."""

    @property
    def is_open(self) -> bool:
        """Whether the user still wants it."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether it is gone although nobody closed it."""
        ...

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Show one (H, W, 3) uint8 BGR picture in place of the last."""
        ...

    def poll(self) -> None:
        """Let the window answer the mouse and the keys; call it several times a second."""
        ...

    def take_events(self) -> list[WindowEvent]:
        """Clicks and keys since the last call, but those that close the window."""
        ...

    def close(self) -> None:
        """Remove the window; a second call does nothing."""
        ...


class OpenCvWindow:
    """OpenCV's own window. Closes with Esc, q or its button."""

    is_lost = False

    def __init__(self, title: str) -> None:
        self._title = title
        self._has_picture = False
        self._events: list[WindowEvent] = []
        self.is_open = True
        cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
        cv2.setMouseCallback(title, self._hear)

    def _hear(self, event: int, x: int, y: int, *_: object) -> None:
        if event in (cv2.EVENT_LBUTTONDOWN, cv2.EVENT_RBUTTONDOWN):
            self._events.append(Click(x=x, y=y, is_negative=event == cv2.EVENT_RBUTTONDOWN))

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Show a picture."""
        cv2.imshow(self._title, picture)
        self._has_picture = True
        self.poll()

    def poll(self) -> None:
        """Read the keys and see whether the button was pressed."""
        if not self.is_open:
            return
        key = cv2.waitKey(1) & 0xFF
        if 32 <= key < 127 and key not in _QUIT_KEYS:
            self._events.append(KeyPress(key=chr(key)))
        gone = self._has_picture and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        self.is_open = not (gone or key in _QUIT_KEYS)

    def take_events(self) -> list[WindowEvent]:
        """Clicks and keys since the last call."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Remove it."""
        self.is_open = False
        cv2.destroyAllWindows()


class TkWindow:
    """A tkinter window; the headless OpenCV wheel has none. Closes with Esc, q or its button."""

    def __init__(self, title: str) -> None:
        import tkinter

        self._image_of, self._gone = tkinter.PhotoImage, tkinter.TclError
        self._root: Any = tkinter.Tk()
        self._root.title(title)
        self._root.resizable(False, False)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._image: Any = None
        self._events: list[WindowEvent] = []
        self.is_open, self.is_lost = True, False
        self._root.protocol("WM_DELETE_WINDOW", self._quit)
        for key in ("<Escape>", "q"):
            self._root.bind(key, self._quit)
        self._root.bind("<Key>", self._hear_key)
        # The right button is the second one on a Mac.
        for button, is_negative in ((1, False), (2, True), (3, True)):
            self._label.bind(f"<Button-{button}>", functools.partial(self._hear_click, is_negative))

    def _hear_key(self, event: Any) -> None:
        if len(event.char) == 1 and event.char.isprintable():
            self._events.append(KeyPress(key=event.char))

    def _hear_click(self, is_negative: bool, event: Any) -> None:
        self._events.append(Click(x=event.x, y=event.y, is_negative=is_negative))

    def take_events(self) -> list[WindowEvent]:
        """Clicks and keys since the last call."""
        events, self._events = self._events, []
        return events

    def _quit(self, *_: object) -> None:
        self.is_open = False

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Show a picture; Tk reads it as binary PPM."""
        height, width = picture.shape[:2]
        header = f"P6 {width} {height} 255\n".encode()
        data = header + np.ascontiguousarray(picture[..., ::-1]).tobytes()
        try:
            # Tk drops an image that nobody refers to.
            self._image = self._image_of(data=data, format="PPM")
            self._label.configure(image=self._image)
        except self._gone:
            self.is_lost = True
        self.poll()

    def poll(self) -> None:
        """Let Tk work."""
        try:
            if self.is_open and not self.is_lost:
                self._root.update()
        except self._gone:  # somebody destroyed the window
            self.is_lost = True

    def close(self) -> None:
        """Remove it."""
        self.is_open = False
        if self._root is not None:
            with contextlib.suppress(self._gone):
                self._root.destroy()
            self._root = None


def has_display() -> bool:
    """Whether a window could appear anywhere; on Linux as the environment says."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def has_tk() -> bool:
    """Whether Python has tkinter."""
    return all(importlib.util.find_spec(name) is not None for name in ("tkinter", "_tkinter"))


def has_opencv_gui() -> bool:
    """Whether this cv2 was built with windows."""
    return re.search(r"^\s*GUI:\s+(?!NONE)\S", cv2.getBuildInformation(), re.MULTILINE) is not None


def open_window(title: str) -> Window:
    """A window of this process, OpenCV's or tkinter's.

    Raises:
        BackendMissing: the display cannot be reached, as one that leads nowhere, or Wayland without XWayland.
    """
    if has_opencv_gui():
        return OpenCvWindow(title)
    import tkinter

    try:
        return TkWindow(title)
    except tkinter.TclError as error:
        raise BackendMissing(str(error)) from error
