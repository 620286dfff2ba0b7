"""What libraries in C write to stderr by themselves, caught, so that a command can say it in a line of its own."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# How libpng and libjpeg begin, which explain themselves there, and OpenCV lets them.
_COMPLAINT = re.compile(
    r"libpng (?:warning|error): |Corrupt JPEG|Premature end of JPEG|Invalid SOS|Inconsistent progression|"
    r"Unsupported (?:marker|JPEG)|Warning: unknown JFIF|Unknown Adobe"
)
# One stderr for the whole process: who catches it must be alone.
_LOCK = threading.Lock()
_MOST_BYTES = 1 << 16


@contextmanager
def caught_complaints() -> Iterator[list[str]]:
    """Keep lines of picture libraries from stderr, and give them, once the block is left.

    What other threads write meanwhile is passed on a little later. Where stderr is closed, nothing is caught.
    """
    complaints: list[str] = []
    with _LOCK:
        try:
            kept = os.dup(2)
        except OSError:
            yield complaints
            return
        reading, writing = os.pipe()
        # A pipe that is full must not hold the library, nor an empty one us.
        os.set_blocking(writing, False)
        os.set_blocking(reading, False)
        os.dup2(writing, 2)
        os.close(writing)
        try:
            yield complaints
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            text = b""
            with contextlib.suppress(OSError):
                while part := os.read(reading, _MOST_BYTES):
                    text += part
            os.close(reading)
            _sort(text, complaints)


def _sort(text: bytes, complaints: list[str]) -> None:
    for line in text.splitlines(keepends=True):
        told = line.decode(errors="replace").strip()
        if _COMPLAINT.match(told):
            complaints.append(told)
        else:
            with contextlib.suppress(OSError):
                os.write(2, line)
