"""Telling a supervisor, systemd, how a service is: `sd_notify` by a datagram, with the standard library alone.

systemd names the socket in NOTIFY_SOCKET of a unit of Type=notify, and in WATCHDOG_USEC how often it wants to hear that
the service lives.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Supervisor:
    """Who started this process and wants to know; without one, all calls do nothing.

    Args:
        environ: of the process.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        given = os.environ if environ is None else environ
        name = given.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is in the abstract namespace, which begins with a zero.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._pause_s = _pause_s(given)
        self._last_sign_s = float("-inf")
        self._is_ready = self._is_stopping = False

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Say once that the service works, and what it does."""
        if not self._is_ready:
            self._is_ready = True
            self._send(f"READY=1\nSTATUS={_line(status)}")

    def alive(self, status: str | None = None) -> bool:
        """Say that the service lives; call it as often as you like, it is sent as often as systemd wants it.

        Returns:
            whether it was sent.
        """
        now_s = time.monotonic()
        if self._pause_s is None or now_s - self._last_sign_s < self._pause_s:
            return False
        self._last_sign_s = now_s
        self._send("WATCHDOG=1" if status is None else f"WATCHDOG=1\nSTATUS={_line(status)}")
        return True

    def stopping(self) -> None:
        """Say once that the service ends."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # A supervisor that is gone ends no service.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.sendto(text.encode(), self._address)


def _pause_s(environ: Mapping[str, str]) -> float | None:
    """Half of what systemd waits [s]; None where it does not watch, or watches another process."""
    limit, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not limit.isdecimal() or int(limit) == 0 or (process and process != str(os.getpid())):
        return None
    return int(limit) / 2e6


def _line(text: str) -> str:
    return " ".join(text.split())
