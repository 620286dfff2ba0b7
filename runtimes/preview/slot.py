"""The newest picture, for everybody who looks: painted only when somebody does, encoded once, never waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

# Somebody looks who has asked for a picture within this time.
WATCHED_S = 3.0
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 82)


class PictureSlot:
    """Holds one picture.

    The stream puts, viewers wait; putting costs the exchange of a reference, and encoding is the first viewer's work.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._encoding = threading.Lock()
        self._picture: NDArray[np.uint8] | None = None
        self._number, self._encoded = 0, (0, b"")
        self._asked_s: dict[str, float] = {}
        self._is_closed = False

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks."""
        return self.viewers > 0

    @property
    def viewers(self) -> int:
        """How many have asked within the last seconds."""
        now_s = self._clock()
        with self._changed:
            self._asked_s = {who: at for who, at in self._asked_s.items() if now_s - at < WATCHED_S}
            return len(self._asked_s)

    def put(self, picture: NDArray[np.uint8]) -> None:
        """Take the place of the last picture, whoever has seen it or not.

        Args:
            picture: (H, W, 3) uint8 BGR; never written to again.
        """
        with self._changed:
            self._picture, self._number = picture, self._number + 1
            self._changed.notify_all()

    def newer(self, number: int, who: str, timeout_s: float) -> tuple[int, NDArray[np.uint8]] | None:
        """The newest picture and its number, as soon as that is another than `number`; None if none comes in time."""
        end_s = self._clock() + timeout_s
        with self._changed:
            while self._picture is None or self._number == number:
                self._asked_s[who] = self._clock()
                if self._is_closed or (left_s := end_s - self._clock()) <= 0:
                    return None
                self._changed.wait(min(left_s, WATCHED_S / 2))
            self._asked_s[who] = self._clock()
            return self._number, self._picture

    def newer_jpeg(self, number: int, who: str, timeout_s: float) -> tuple[int, bytes] | None:
        """As `newer`, as a JPEG that all viewers of it share."""
        found = self.newer(number, who, timeout_s)
        if found is None:
            return None
        with self._encoding:
            if self._encoded[0] < found[0]:
                self._encoded = found[0], cv2.imencode(".jpg", found[1], _JPEG)[1].tobytes()
            return self._encoded

    def close(self) -> None:
        """Send everybody away."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
