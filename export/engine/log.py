"""What TensorRT says while it builds, turned into events and into one line for an error.

TensorRT tells the reason of a failure to its logger only; the call itself returns None. An event is a plain dict, so
that it can travel as JSON. TensorRT calls both objects from several threads.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

Emit = Callable[[dict[str, Any]], None]

_MAX_WARNINGS = 20
_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|bad_alloc|could not be allocated|memory allocation|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
_SKIPPED = re.compile(r"skipping tactic|insufficient to use tactic", re.IGNORECASE)
_NO_TACTIC = re.compile(r"could not find any implementation", re.IGNORECASE)
_MEMORY_LINE = re.compile(r"Total (Activation|Weights) Memory: (\d+)")
# Places in NVIDIA's sources, and the complaint of a machine without a GPU that follows every parser error.
_NOISE = re.compile(r"\s*\[checkMacros\.cpp::catchCudaError.*$|\s+In \w+ at /\S+:\d+")
_MAX_REASON = 400


class BuildLog:
    """Collects TensorRT's messages.

    Attributes:
        logger: the object to hand to TensorRT.
        errors: messages of severity error, in order.
        warnings: distinct messages of severity warning, the first few.
        memory_bytes: what TensorRT said of `Activation` and `Weights` memory.
    """

    def __init__(self, module: Any, emit: Emit) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.memory_bytes: dict[str, int] = {}
        self._has_run_out = self._has_just_skipped = False
        self._emit = emit
        error_level, warning_level, info_level = (
            int(getattr(module.ILogger, name)) for name in ("ERROR", "WARNING", "INFO")
        )
        collect = self._collect

        class Logger(module.ILogger):
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                level = int(severity)
                if level <= info_level:
                    collect(message, is_error=level <= error_level, is_warning=level == warning_level)

        self.logger = Logger()

    def _collect(self, message: str, *, is_error: bool, is_warning: bool) -> None:
        line = " ".join(message.split())
        if match := _MEMORY_LINE.search(line):
            self.memory_bytes[match[1]] = int(match[2])
        if is_error or is_warning:
            self._note_memory(line, is_error=is_error)
        if is_error:
            self.errors.append(line)
        elif is_warning:
            if line not in self.warnings and len(self.warnings) < _MAX_WARNINGS:
                self.warnings.append(line)
        else:
            self._emit({"event": "log", "message": line})

    def _note_memory(self, line: str, *, is_error: bool) -> None:
        """Tell a build that ran out from one that skipped a tactic for its size, as nearly every build on a board does.

        A skipped tactic takes back the failed allocation before it. Only "no implementation for node" straight after it
        means that none of the node's tactics fitted.
        """
        if _SKIPPED.search(line):
            self._has_run_out, self._has_just_skipped = False, True
        elif _OUT_OF_MEMORY.search(line):
            self._has_run_out = True
        elif is_error:
            self._has_run_out = self._has_run_out or (self._has_just_skipped and bool(_NO_TACTIC.search(line)))
            self._has_just_skipped = False

    @property
    def has_run_out_of_memory(self) -> bool:
        """Whether an allocation failed, which TensorRT goes on to report as "no implementation for node"."""
        return self._has_run_out

    def reason(self) -> str:
        """The errors so far on one line; the first says the cause, the last the consequence."""
        if not self.errors:
            return "it gave no reason"
        first, last = self.errors[0], self.errors[-1]
        return one_line(first if first == last else f"{first} ... {last}")

    def forget(self) -> None:
        """Start the next attempt with a clean page."""
        self.errors.clear()
        self._has_run_out = self._has_just_skipped = False


def one_line(text: str) -> str:
    """A message of TensorRT without line breaks, source positions and excess."""
    line = _NOISE.sub("", " ".join(text.split()))
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}..."


def monitor_for(module: Any, emit: Emit) -> Any:
    """An IProgressMonitor that emits a build's phases, or None where the release has none."""
    if not hasattr(module, "IProgressMonitor"):
        return None

    class Monitor(module.IProgressMonitor):
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            emit({"event": "phase", "name": phase_name, "parent": parent_phase, "steps": num_steps})

        def step_complete(self, phase_name: str, step: int) -> bool:
            emit({"event": "step", "name": phase_name, "step": step})
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            emit({"event": "finish", "name": phase_name})

    return Monitor()


def locked(emit: Emit) -> Emit:
    """The same emitter, one caller at a time."""
    lock = threading.Lock()

    def emit_alone(event: dict[str, Any]) -> None:
        with lock:
            emit(event)

    return emit_alone
