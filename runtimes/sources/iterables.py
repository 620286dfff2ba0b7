"""A program's own frames as a source: any iterable of pictures, or a function that gives the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.sources.frames import Frame

Frames = Iterable[Any] | Callable[[], Any]
_ALLOWED = "uint8 arrays (H, W, 3) in BGR, or brixel_edge.runtimes.sources.frames.Frame with a time of your own"


class IterableSource:
    """Frames of an iterable, or of a function that returns None at its end; asked for one ahead, in a thread.

    A picture is stamped when it comes; give a `Frame` where you know its time better. All of them are used, unless a
    policy says otherwise. Each is copied as it comes: a program may fill the same array again and again, and the next
    frame is asked for while this one is computed.
    """

    is_live = False
    skipped = 0
    fps = None

    def __init__(self, frames: Frames) -> None:
        self.description = f"frames of {getattr(frames, '__name__', type(frames).__name__)}"
        self._frames = _iterator(frames)
        self._stop = threading.Event()
        self._index = 0
        self._start_s: float | None = None

    def read(self) -> Frame | None:
        """The next frame; None at the end.

        Raises:
            SpecError: something else than a picture.
        """
        asked_s = time.monotonic()
        given = None if self._stop.is_set() else next(self._frames, None)
        if given is None:
            return None
        now_s = time.monotonic()
        if self._start_s is None:
            self._start_s = now_s
        index, self._index = self._index, self._index + 1
        if isinstance(given, Frame):
            return replace(given, image=_picture(given.image, index))
        return Frame(
            image=_picture(given, index),
            index=index,
            t_capture_s=now_s,
            t_media_s=now_s - self._start_s,
            capture_s=now_s - asked_s,
        )

    def interrupt(self) -> None:
        """No further frame is asked for; a call into your code cannot be ended from here."""
        self._stop.set()

    def close(self) -> None:
        """Close a generator, so that its `finally` runs."""
        close = getattr(self._frames, "close", None)
        if callable(close):
            close()


def _iterator(frames: Frames) -> Iterator[Any]:
    if callable(frames):
        return _called(frames)
    if isinstance(frames, Iterable):
        return iter(frames)
    raise SpecError(
        f"the source is {type(frames).__name__}; give a camera (0), a URL, a file, a folder, demo:, a list of them, "
        f"or an iterable or function of {_ALLOWED}"
    )


def _called(function: Callable[[], Any]) -> Iterator[Any]:
    while (given := function()) is not None:
        yield given


def _picture(given: object, index: int) -> NDArray[np.uint8]:
    if not isinstance(given, np.ndarray):
        raise SpecError(f"frame {index} of the source is {type(given).__name__}; give {_ALLOWED}")
    if given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 3 and given.size:
        return given.copy()
    raise SpecError(f"frame {index} of the source is {given.dtype} {given.shape}; give {_ALLOWED}")
