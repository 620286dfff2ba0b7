"""Bounds on a machine that may have more to do than it can, and what a test must not leave behind there."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from pathlib import Path

# By so much may a delivered age be understated.
BOUND_S = 0.150


def allowed(seconds):
    """A bound on a recovery, longer where the machine has more to do than it can."""
    return seconds * min(5.0, max(1.0, os.getloadavg()[0] / os.cpu_count()))


class Heartbeat:
    """How late this machine lets a thread run that wants to; a clock cannot be truer than that."""

    def __init__(self):
        self._late, self._over = deque(maxlen=200), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self):
        due_s = time.monotonic() + 0.01
        while not self._over.wait(max(0.0, due_s - time.monotonic())):
            now_s = time.monotonic()
            self._late.append(now_s - due_s)
            due_s = now_s + 0.01

    @property
    def worst_s(self):
        """Of the last two seconds."""
        return max(self._late, default=0.0)

    def stop(self):
        self._over.set()
        self._thread.join()


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def children():
    """Processes that this one started and that are still there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == os.getpid():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80])
    return found
