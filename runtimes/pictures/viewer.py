"""The process that `WindowProcess` starts: it shows what comes on its stdin, and says what the user does.

Started as `python -m brixel_edge.runtimes.pictures.viewer PIPE`, with the title on stdin, then for each picture a line
`HEIGHT WIDTH` and its pixels.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing
from brixel_edge.machine.child_process import say
from brixel_edge.runtimes.pictures.events import Click
from brixel_edge.runtimes.pictures.window import open_window

_POLL_S = 0.02


class _Newest:
    """The newest picture of a pipe, read in a thread so that the parent never waits for a slow display."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._arrived = threading.Event()
        self._picture: NDArray[np.uint8] | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while header := self._pipe.readline():
            height, width = map(int, header.split())
            data = self._pipe.read(3 * height * width)
            if len(data) < 3 * height * width:
                break
            self._picture = np.frombuffer(data, np.uint8).reshape(height, width, 3)
            self._arrived.set()
        # The parent is gone, whatever the display does.
        os._exit(0)

    def take(self, timeout_s: float) -> NDArray[np.uint8] | None:
        """The newest, if one comes in time that was not taken yet."""
        self._arrived.wait(timeout_s)
        self._arrived.clear()
        picture, self._picture = self._picture, None
        return picture


def main() -> None:
    """The child; its argument is a descriptor."""
    with os.fdopen(int(sys.argv[1]), "w") as pipe:
        title = sys.stdin.buffer.readline().decode().rstrip("\n")
        try:
            window = open_window(title)
        except BackendMissing as error:
            say(pipe, none=str(error))
            return
        say(pipe, opened=True)
        pictures = _Newest(sys.stdin.buffer)
        while window.is_open and not window.is_lost:
            picture = pictures.take(_POLL_S)
            if picture is not None:
                window.show(picture)
            else:
                window.poll()
            for event in window.take_events():
                said = {"click": dataclasses.asdict(event)} if isinstance(event, Click) else {"key": event.key}
                say(pipe, **said)
        if not window.is_open:
            say(pipe, closed=True)
    os._exit(0)


if __name__ == "__main__":
    main()
