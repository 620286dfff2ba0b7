"""Waiting for what cannot be interrupted: Python answers Ctrl-C only between its own steps, never inside a library."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from brixel_edge.machine.process_end import guard_process_end


class Closable(Protocol):
    """What is opened and must be closed."""

    def close(self) -> None:
        """Let go of it."""
        ...


Opened = TypeVar("Opened", bound=Closable)
_GRACE_S = 0.4
_POLL_S = 0.1  # Windows' waits are not interruptible


class _Opening:
    """One call in a thread of its own, a daemon: it keeps no process from ending."""

    def __init__(self, open_it: Callable[[], Closable]) -> None:
        self._open_it = open_it
        self._lock = threading.Lock()
        self.done = threading.Event()
        self.result: Closable | None = None
        self.error: BaseException | None = None
        self._is_abandoned = False
        guard_process_end()
        threading.Thread(target=self._run, name="brixel-opening", daemon=True).start()

    def _run(self) -> None:
        try:
            result = self._open_it()
        except BaseException as error:
            # Raised again by who waits; nothing may end this thread silently.
            self.error = error
        else:
            with self._lock:
                self.result = result
                is_abandoned = self._is_abandoned
            if is_abandoned:
                result.close()
        self.done.set()

    def abandon(self) -> None:
        """Nobody waits any more: what is open, or will be, is closed.

        A short wait first: most are done by then, and nothing is left behind.
        """
        self.done.wait(_GRACE_S)
        with self._lock:
            self._is_abandoned = True
            result = self.result
        if result is not None:
            result.close()


def result_of(open_it: Callable[[], Opened]) -> Opened:
    """Call `open_it` in a thread and wait for it, so that Ctrl-C ends the wait and not only what follows it.

    Args:
        open_it: opens something; what it opens after the wait was ended is closed.

    Raises:
        BaseException: what `open_it` raised.
    """
    opening = _Opening(open_it)
    try:
        while not opening.done.wait(_POLL_S):
            pass
    except BaseException:
        opening.abandon()
        raise
    if opening.error is not None:
        raise opening.error
    return opening.result  # type: ignore[return-value]  # that of open_it
