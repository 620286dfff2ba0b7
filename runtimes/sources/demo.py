"""A camera for those who have none: a slow pan and zoom over photographs that come along, in real time."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError
from brixel_edge.runtimes.sources.frames import Frame, FrameMemory, fitting_bytes

DEMO = "demo:"
# In the public domain; LICENCES.txt beside them says whose they are.
FOLDER = Path(__file__).parent / "photographs"
PHOTOGRAPHS = ("chelsea.jpg", "coffee.jpg", "astronaut.jpg", "rocket.jpg", "hubble_deep_field.jpg")
WIDTH, HEIGHT = 640, 480
SECONDS_PER_PHOTOGRAPH = 4.0


def pan_and_zoom(photograph: NDArray[np.uint8], progress: float) -> NDArray[np.uint8]:
    """One view of a photograph.

    Args:
        photograph: (H, W, 3) uint8.
        progress: 0 to 1 over the time that the photograph is shown.

    Returns:
        (480, 640, 3) uint8.
    """
    height, width = photograph.shape[:2]
    angle = math.pi * progress
    # The largest 4:3 window at the ends, 60 % of it in the middle, sweeping from left to right.
    window = min(width, height * WIDTH / HEIGHT) * (1 - 0.4 * math.sin(angle))
    scale = WIDTH / window
    left = (width - window) * (0.5 - 0.5 * math.cos(angle))
    top = (height - window * HEIGHT / WIDTH) * (0.5 + 0.25 * math.sin(angle))
    # Half-pixel centres: output pixel (0, 0) shows the window's corner.
    matrix = np.array([[scale, 0, -scale * left + (scale - 1) / 2], [0, scale, -scale * top + (scale - 1) / 2]])
    warped = cv2.warpAffine(photograph, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(warped, np.uint8)


class DemoSource:
    """The demo as a live source: like a camera it goes on when nobody reads."""

    is_live = True
    fps = 30.0
    skipped = 0

    def __init__(self) -> None:
        found = [cv2.imread(str(FOLDER / name), cv2.IMREAD_COLOR) for name in PHOTOGRAPHS]
        self._photographs = [np.asarray(image, np.uint8) for image in found if image is not None]
        if not self._photographs:
            raise BundleError(f"{FOLDER} has none of the demo's photographs; install brixel-edge again")
        self._stop = threading.Event()
        self._start_s: float | None = None
        self._index = 0
        self.description = f"demo: ({len(self._photographs)} photographs, {WIDTH}x{HEIGHT}, {self.fps:.0f} fps)"

    def read(self) -> Frame | None:
        """The next frame when its time has come; None after `interrupt`."""
        now = time.monotonic()
        if self._start_s is None:
            self._start_s = now
        due_s = self._start_s + self._index / self.fps
        if self._stop.wait(max(0.0, due_s - now)):
            return None
        stamp = time.monotonic()
        image = self.picture(self._index)
        index, self._index = self._index, self._index + 1
        return Frame(
            image=image,
            index=index,
            t_capture_s=stamp,
            t_media_s=index / self.fps,
            capture_s=time.monotonic() - stamp,
        )

    def picture(self, index: int) -> NDArray[np.uint8]:
        """The frame of one index, the same every time."""
        photograph, progress = divmod(index / self.fps / SECONDS_PER_PHOTOGRAPH, 1.0)
        return pan_and_zoom(self._photographs[int(photograph) % len(self._photographs)], progress)

    def memory(self) -> FrameMemory:
        """The photographs are decoded before anybody asks."""
        return FrameMemory(frame_bytes=3 * WIDTH * HEIGHT, own_bytes=fitting_bytes(HEIGHT, WIDTH))

    def interrupt(self) -> None:
        """End the wait for the next frame."""
        self._stop.set()

    def close(self) -> None:
        """Nothing stays open."""
