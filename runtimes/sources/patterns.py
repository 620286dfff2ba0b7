"""Live sources that need no camera: `test:pattern` moves a disc, `test:clock` paints the time into its pixels."""

from __future__ import annotations

import threading
import time
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.sources.clock_picture import paint_time
from brixel_edge.runtimes.sources.frames import Frame, FrameMemory, fitting_bytes

PATTERNS = ("test:pattern", "test:clock")
_DEFAULTS = {"width": 640, "height": 480, "fps": 30}
_SMALLEST_PX, _LARGEST_PX, _FASTEST_FPS = 64, 8192, 1000
_SECONDS_PER_ROUND = 4.0


class PatternSource:
    """A pattern at a steady rate; like a camera it goes on when nobody reads.

    Args:
        text: `test:pattern` or `test:clock`, perhaps with `?width=640&height=480&fps=30`.
    """

    is_live = True
    skipped = 0

    def __init__(self, text: str) -> None:
        self._name, size = parse_pattern(text)
        self._width, self._height, self.fps = int(size["width"]), int(size["height"]), float(size["fps"])
        self._background = _gradient(self._width, self._height)
        self._stop = threading.Event()
        self._start_s: float | None = None
        self._index = 0
        self.description = f"{self._name} ({self._width}x{self._height}, {self.fps:.4g} fps)"

    def read(self) -> Frame | None:
        """The next frame when its time has come; None after `interrupt`."""
        now_s = time.monotonic()
        if self._start_s is None:
            self._start_s = now_s
        if self._stop.wait(max(0.0, self._start_s + self._index / self.fps - now_s)):
            return None
        stamp_s = time.monotonic()
        image = self.picture(self._index, stamp_s)
        index, self._index = self._index, self._index + 1
        return Frame(
            image=image,
            index=index,
            t_capture_s=stamp_s,
            t_stream_s=index / self.fps,
            t_media_s=index / self.fps,
            capture_s=time.monotonic() - stamp_s,
        )

    def picture(self, index: int, time_s: float) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR, the frame of one index and time."""
        image = self._background.copy()
        angle = 2 * np.pi * index / self.fps / _SECONDS_PER_ROUND
        side = min(self._width, self._height) // 8
        x = round((self._width - side) * (0.5 + 0.45 * np.cos(angle)))
        y = round(self._height // 2 + (self._height // 2 - side) * (0.5 + 0.45 * np.sin(angle)))
        image[y : y + side, x : x + side] = (40, 80, 240)
        if self._name == "test:clock":
            paint_time(image, time_s)
        return image

    def memory(self) -> FrameMemory:
        """The background is there before anybody asks."""
        size = self._height, self._width
        return FrameMemory(frame_bytes=self._background.nbytes, own_bytes=fitting_bytes(*size))

    def interrupt(self) -> None:
        """End the wait for the next frame."""
        self._stop.set()

    def close(self) -> None:
        """Nothing stays open."""


def parse_pattern(text: str) -> tuple[str, dict[str, float]]:
    """Name, and `width`, `height`, `fps`.

    Raises:
        SpecError: no such pattern or mode.
    """
    name, _, query = text.partition("?")
    wanted = dict(parse_qsl(query, keep_blank_values=True))
    if name not in PATTERNS or set(wanted) - set(_DEFAULTS):
        raise SpecError(f"{text!r} is not one of {', '.join(PATTERNS)}, perhaps with ?width=640&height=480&fps=30")
    try:
        size = {key: float(wanted.get(key, default)) for key, default in _DEFAULTS.items()}
    except ValueError as error:
        raise SpecError(f"{text!r} has a mode that is no number; for instance {name}?width=640&fps=30") from error
    sides = size["width"], size["height"]
    if not (min(sides) >= _SMALLEST_PX and max(sides) <= _LARGEST_PX and 0 < size["fps"] <= _FASTEST_FPS):
        raise SpecError(f"{text!r}: sides must be {_SMALLEST_PX} to {_LARGEST_PX} px and fps up to {_FASTEST_FPS}")
    return name, size


def _gradient(width: int, height: int) -> NDArray[np.uint8]:
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(30, 200, width).astype(np.uint8)
    image[..., 1] = np.linspace(200, 30, height).astype(np.uint8)[:, None]
    image[..., 2] = 90
    return image
