"""The entry point of brixel-run: the handlers of Ctrl-C and SIGTERM first, then the imports."""

from __future__ import annotations

import sys

from brixel_edge.commands.stop_signals import StopSignals, end_at_once


def main(argv: list[str] | None = None) -> int:
    """What `brixel-run` calls."""
    signals = StopSignals()
    signals.install()
    try:
        from brixel_edge.commands import run

        return run.main(argv, signals)
    except BaseException:  # an import that a signal breaks off raises whatever its author thought of
        if not signals.is_set():
            raise
        end_at_once("--json" in (sys.argv if argv is None else argv))
