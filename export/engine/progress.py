"""A build's progress for a human: a bar on stderr where TensorRT reports phases, log lines where it does not."""

from __future__ import annotations

import importlib
import logging
import sys
from dataclasses import dataclass
from typing import Any, Protocol

LOGGER = logging.getLogger(__name__)


class BuildProgress(Protocol):
    """Shows a build."""

    def on_event(self, event: dict[str, Any]) -> None:
        """Called with every event of the building process."""
        ...

    def close(self) -> None:
        """The build is over."""
        ...


@dataclass(kw_only=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTree:
    """TensorRT's nested phases as one number.

    A phase is one of its parent's steps; phases of one parent may run side by side. Names can come again.
    """

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    def on_event(self, event: dict[str, Any]) -> None:
        """Take in a `phase`, `step` or `finish` event."""
        name = event.get("name", "")
        if event["event"] == "phase":
            self._phases[name] = _Phase(parent=event["parent"], steps=max(1, event["steps"]))
        elif event["event"] == "step" and name in self._phases:
            self._phases[name].done = max(self._phases[name].done, event["step"] + 1)
        elif event["event"] == "finish":
            phase = self._phases.pop(name, None)
            if phase is not None and phase.parent is None:
                self._fraction = 1.0

    @property
    def fraction(self) -> float:
        """Done, 0 to 1; never falls."""
        roots = [name for name, phase in self._phases.items() if phase.parent not in self._phases]
        self._fraction = max([self._fraction, *(self._done(name) for name in roots)])
        return self._fraction

    @property
    def innermost(self) -> str:
        """The phase that was entered last and is not over."""
        return next(reversed(self._phases), "")

    def _done(self, name: str) -> float:
        phase = self._phases[name]
        inner = sum(self._done(child) for child, other in self._phases.items() if other.parent == name)
        return min(1.0, (phase.done + min(inner, 1.0)) / phase.steps)


class LoggedProgress:
    """TensorRT's own messages as log lines, and warnings as warnings."""

    def __init__(self) -> None:
        self._has_phases = True

    def on_event(self, event: dict[str, Any]) -> None:
        """Log; the messages are for the debugger where phases tell the progress."""
        kind = event["event"]
        if kind == "start":
            self._has_phases = event["has_phases"]
        elif kind == "log":
            LOGGER.log(logging.DEBUG if self._has_phases else logging.INFO, "TensorRT: %s", event["message"])
        elif kind == "warning":
            LOGGER.warning("%s", event["message"])
        elif kind == "phase" and event["parent"] is None:
            LOGGER.info("TensorRT: %s", event["name"])

    def close(self) -> None:
        """Nothing to tidy."""


class BarProgress:
    """One tqdm bar on stderr, in percent, naming the phase; before IProgressMonitor the time and the last message."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bar: Any = None
        self._tree = PhaseTree()
        self._log = LoggedProgress()
        self._has_phases = True

    def on_event(self, event: dict[str, Any]) -> None:
        """Move the bar."""
        self._log.on_event(event)
        kind = event["event"]
        if kind == "start":
            self._has_phases = event["has_phases"]
            shape = "{l_bar}{bar}| {elapsed}{postfix}" if event["has_phases"] else "{desc}: {elapsed}{postfix}"
            self._bar = self._tqdm(total=100, desc="TensorRT", file=sys.stderr, bar_format=shape)
        elif kind in ("phase", "step", "finish"):
            self._tree.on_event(event)
            self._show(self._tree.innermost)
        elif kind == "log" and not self._has_phases:
            self._show(event["message"][:60])

    def _show(self, text: str) -> None:
        if self._bar is not None:
            self._bar.n = round(100 * self._tree.fraction)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(0)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def default_progress() -> BuildProgress:
    """The bar where tqdm is there, else log lines."""
    try:
        return BarProgress(importlib.import_module("tqdm").tqdm)
    except ImportError:
        return LoggedProgress()
