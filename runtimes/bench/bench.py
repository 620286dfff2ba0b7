"""Engines measured side by side: each in a process of its own, taking turns, so that all see the same machine.

Turns are short and interleaved; a disturbance from outside hits all alike, and ratios between rows stay honest where
absolute times do not. Results are back in host memory when a call returns, so a call has been waited for.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from brixel_edge.errors import BuildError
from brixel_edge.machine.progress import progress
from brixel_edge.model.receipt_sections import BenchRow
from brixel_edge.runtimes.engines import Engine


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How often engines are called.

    Attributes:
        warmup: calls before the first counted one.
        rounds: turns of every engine.
        calls: counted calls of a turn.
    """

    warmup: int = 3
    rounds: int = 10
    calls: int = 3


class _Process:
    """An engine's process; what it tells is kept until the end."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self._facts: dict[str, Any] = {}
        self._times_ms: list[float] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "brixel_edge.runtimes.bench.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._ask({**dataclasses.asdict(engine), "path": str(engine.path)})

    def _ask(self, request: dict[str, Any]) -> None:
        """Send a request and keep its answer; after an error nothing is asked any more."""
        if "error" in self._facts:
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        self._facts |= json.loads(line) if line else {"error": f"its process ended with code {self._process.wait()}"}

    def run(self, calls: int, *, is_counted: bool = True) -> None:
        """Call the engine so many times."""
        self._ask({"run": calls})
        times_ms = self._facts.pop("times_ms", [])
        self._times_ms += times_ms if is_counted else []

    def row(self) -> BenchRow:
        """End the engine; its figures."""
        self._ask({"end": True})
        if "error" in self._facts or not self._times_ms:
            return BenchRow(name=self.name, error=self._facts.get("error", "not a single call was counted"))
        return row_from_times(self.name, self._times_ms, **self._facts)

    def stop(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def row_from_times(
    name: str, times_ms: Sequence[float], *, load_s: float, peak_bytes: int | None, device_bytes: int | None
) -> BenchRow:
    """The figures of one engine from the times of its calls."""
    return BenchRow(
        name=name,
        p50_ms=float(np.percentile(times_ms, 50)),
        p99_ms=float(np.percentile(times_ms, 99)),
        per_s=float(1e3 / np.mean(times_ms)),
        peak_bytes=peak_bytes,
        device_bytes=device_bytes,
        load_s=load_s,
        calls=len(times_ms),
    )


def measure(engines: Sequence[Engine], schedule: Schedule | None = None) -> list[BenchRow]:
    """Measure all side by side; a row each, in the same order."""
    schedule = schedule or Schedule()
    with ExitStack() as stack:
        processes: list[_Process] = []
        for engine in engines:
            processes.append(_Process(engine))
            stack.callback(processes[-1].stop)
        for process in processes:
            process.run(schedule.warmup, is_counted=False)
        for _ in progress(range(schedule.rounds), "rounds of calls"):
            for process in processes:
                process.run(schedule.calls)
        return [process.row() for process in processes]


def require_measured(rows: Sequence[BenchRow]) -> None:
    """Refuse a measurement in which nobody ran.

    Raises:
        BuildError: every row is an error.
    """
    if not any(row.error is None for row in rows):
        raise BuildError(f"no engine runs here: {'; '.join(f'{row.name}: {row.error}' for row in rows)}")
