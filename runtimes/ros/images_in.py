"""Images on their way to the model: the newest are kept, the oldest go, and what is too old is not looked at."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from brixel_edge.runtimes.ros.wire.messages import Image


@dataclass
class Counters:
    """Of images: `received` = `replaced` + `too_old` + `failed` + `processed` + those that wait or are worked on."""

    received: int = 0
    replaced: int = 0
    too_old: int = 0
    failed: int = 0
    processed: int = 0
    published: int = 0


class Waiting:
    """The newest images; for one thread that adds and one that takes.

    Attributes:
        received: images that came.
        replaced: those that a newer one pushed out.

    Args:
        depth: of them that wait.
    """

    def __init__(self, depth: int) -> None:
        self._images: deque[Image] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._is_over = False
        self.received = self.replaced = 0

    def add(self, image: Image) -> None:
        """Take one in; never waits."""
        with self._changed:
            self.received += 1
            self._images.append(image)
            if len(self._images) > self._depth:
                self._images.popleft()
                self.replaced += 1
            self._changed.notify()

    def take(self) -> Image | None:
        """The oldest of those that wait, waiting for one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._images or self._is_over)
            return None if self._is_over else self._images.popleft()

    def end(self) -> None:
        """Wake who waits, for good."""
        with self._changed:
            self._is_over = True
            self._images.clear()
            self._changed.notify_all()


def age_ms(image: Image, now_ns: int) -> float:
    """Since its capture, as its header says [ms]."""
    return (now_ns - image.header.stamp.ns) / 1e6
