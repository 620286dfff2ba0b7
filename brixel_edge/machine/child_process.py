"""A module of ours in a process of its own that can be killed, whatever library it hangs in.

It is told by bytes on its stdin, and says JSON, one message a line, through a pipe of its own, for libraries print to
stdout.
The parent's end is the end of its stdin. Ctrl-C in a terminal does not reach it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

_LOG = logging.getLogger(__name__)
# A process inside a driver that hangs in the kernel cannot even be killed; it is not waited for.
_KILL_S = 0.5
_PART_BYTES = 1 << 16


class ChildProcess:
    """A running child.

    Args:
        module: started as `python -m MODULE WRITING DESCRIPTOR...`; it says its messages to WRITING.
        descriptors: of open files to hand on.
        what: it is, for messages.
    """

    def __init__(self, module: str, what: str, descriptors: Sequence[int] = ()) -> None:
        self._what = what
        self._reading, writing = os.pipe()
        self._heard = b""
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, (writing, *descriptors))],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(writing, *descriptors), start_new_session=True, bufsize=0,
            )  # fmt: skip
        except BaseException:
            os.close(self._reading)
            raise
        finally:
            os.close(writing)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def tell(self, data: bytes) -> None:
        """Write to its stdin; waits while it does not read, until it is killed.

        Raises:
            OSError: it is gone.
        """
        assert self._process.stdin is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self._process.stdin.write(rest) :]

    def hear(self, timeout_s: float) -> dict[str, Any] | None:
        """Its next message; None where none comes in time.

        Raises:
            EOFError: it has ended.
        """
        while b"\n" not in self._heard:
            with selectors.DefaultSelector() as ready:
                ready.register(self._reading, selectors.EVENT_READ)
                if not ready.select(timeout_s):
                    return None
            part = os.read(self._reading, _PART_BYTES)
            if not part:
                raise EOFError
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def kill(self) -> None:
        """End it; a second call does nothing."""
        if self._reading < 0:
            return
        self._process.kill()
        try:
            self._process.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            _LOG.warning("%s: its process (%d) hangs in the kernel and is left behind", self._what, self.pid)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        os.close(self._reading)
        self._reading = -1


def say(pipe: IO[str], **message: Any) -> None:
    """The child's side: one message."""
    pipe.write(json.dumps(message) + "\n")
    pipe.flush()
