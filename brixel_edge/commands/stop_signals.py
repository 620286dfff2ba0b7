"""Ctrl-C and SIGTERM from the first moment on: a wish to stop, and the table of what was done until then.

Imports next to nothing: until the handlers are in place, Python's own answer to Ctrl-C is a traceback.
"""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class StopSignals:
    """What the signals asked for. A second one ends the process, as it would without us.

    Attributes:
        is_interrupting: whether a signal also breaks off what the main thread does. So while libraries are imported,
            which may take seconds on a board; not afterwards, when the main thread only waits and must finish files.
    """

    def __init__(self) -> None:
        self.is_interrupting = True
        self._is_set = False
        self._before: dict[int, Any] = {}  # what signal.signal gave, which typeshed does not name

    def is_set(self) -> bool:
        """Whether the user wants an end."""
        return self._is_set

    def install(self) -> None:
        """Put the handlers in place; signals belong to the main thread, elsewhere a run goes without them."""
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        except ValueError:
            self._before = {}

    def restore(self) -> None:
        """As it was before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, *_: object) -> None:
        self._is_set = True
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
        if self.is_interrupting:
            raise KeyboardInterrupt


def end_at_once(as_json: bool) -> NoReturn:
    """The table of a run that has not begun; without the interpreter's own end, for modules are half imported."""
    import json
    import os

    from brixel_edge.runtimes.stream.report import RunReport

    report = RunReport.of_nothing()
    print(json.dumps(report.to_json()) if as_json else report.table())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
