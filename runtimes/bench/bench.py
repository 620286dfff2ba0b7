"""Engines measured side by side: each in a process of its own, taking turns, so that all see the same machine.

Turns are short and interleaved; a disturbance from outside hits all alike, and ratios between rows stay honest where
absolute times do not. Results are back in host memory when a call returns, so a call has been waited for.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from brixel_edge.errors import BuildError
from brixel_edge.runtimes.runtime import OpenVinoPrecision

_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """An engine to measure.

    Attributes:
        name: of the row, for instance `graph.fp32.onnx, ort`.
        path: of the graph or plan.
        backend: that runs it.
        size: (H, W) of its image [px].
        threads: of CPU backends; None takes one per core.
        openvino_precision: as in `RuntimeSettings`.
    """

    name: str
    path: Path
    backend: str
    size: tuple[int, int]
    threads: int | None = None
    openvino_precision: OpenVinoPrecision = "f32"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How to measure.

    Attributes:
        warmup: calls before the first counted one.
        rounds: turns of every contestant.
        calls: counted calls of a turn.
    """

    warmup: int = 3
    rounds: int = 10
    calls: int = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one contestant; `error` says why nothing was.

    Attributes:
        name: of the contestant.
        p50_ms: median call.
        p99_ms: 99th percentile.
        per_s: calls a second, by the mean.
        peak_bytes: largest resident memory of its process, Python and libraries included.
        device_bytes: memory on an accelerator, where the backend says.
        load_s: opening the engine.
        calls: that were counted.
        error: None if it was measured.
    """

    name: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    per_s: float | None = None
    peak_bytes: int | None = None
    device_bytes: int | None = None
    load_s: float | None = None
    calls: int = 0
    error: str | None = None


@dataclass
class _Process:
    """A contestant's process, and what it has told so far."""

    contestant: Contestant
    process: subprocess.Popen[str]
    facts: dict[str, Any] = field(default_factory=dict)
    times_ms: list[float] = field(default_factory=list)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer; an answer with `error` if the process has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"error": "its process ended"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"its process ended with code {self.process.wait()}"}

    def stop(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(
    contestants: Sequence[Contestant], protocol: Protocol | None = None, on_round: Callable[[], None] = lambda: None
) -> list[Row]:
    """Measure all side by side.

    Args:
        contestants: at least one.
        protocol: how.
        on_round: called after each round.

    Returns:
        a row each, in the same order.
    """
    protocol = protocol or Protocol()
    with ExitStack() as stack:
        processes = [_start(contestant) for contestant in contestants]
        for entry in processes:
            stack.callback(entry.stop)
        for entry in processes:
            if "error" not in entry.facts:
                entry.facts |= {
                    key: value for key, value in entry.ask({"run": protocol.warmup}).items() if key == "error"
                }
        for _ in range(protocol.rounds):
            for entry in processes:
                _take_turn(entry, protocol.calls)
            on_round()
        for entry in processes:
            if "error" not in entry.facts:
                entry.facts |= entry.ask({"end": True})
        return [_row(entry) for entry in processes]


def _start(contestant: Contestant) -> _Process:
    command = [sys.executable, "-m", "brixel_edge.runtimes.bench.child"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    entry = _Process(contestant, process)
    height, width = contestant.size
    entry.facts = entry.ask(
        {
            "path": str(contestant.path),
            "backend": contestant.backend,
            "threads": contestant.threads,
            "openvino_precision": contestant.openvino_precision,
            "height": height,
            "width": width,
        }
    )
    return entry


def _take_turn(entry: _Process, calls: int) -> None:
    if "error" in entry.facts:
        return
    answer = entry.ask({"run": calls})
    if "error" in answer:
        entry.facts |= answer
    else:
        entry.times_ms += answer["times_ms"]


def _row(entry: _Process) -> Row:
    if "error" in entry.facts or not entry.times_ms:
        return Row(name=entry.contestant.name, error=entry.facts.get("error", "not a single call was counted"))
    times_ms = np.array(entry.times_ms)
    return Row(
        name=entry.contestant.name,
        p50_ms=float(np.percentile(times_ms, 50)),
        p99_ms=float(np.percentile(times_ms, 99)),
        per_s=float(1e3 / times_ms.mean()),
        peak_bytes=entry.facts.get("peak_bytes"),
        device_bytes=entry.facts.get("device_bytes"),
        load_s=entry.facts["load_s"],
        calls=len(times_ms),
    )


def require_measured(rows: Sequence[Row]) -> None:
    """Refuse a measurement in which nobody ran.

    Raises:
        BuildError: every row is an error.
    """
    if not any(row.error is None for row in rows):
        raise BuildError(f"no engine runs here: {'; '.join(f'{row.name}: {row.error}' for row in rows)}")


def machine_facts() -> dict[str, Any]:
    """The processor and its clock, as far as the system tells."""
    facts: dict[str, Any] = {"system": platform.platform(terse=True), "cores": os.cpu_count()}
    fields: dict[str, str] = {}
    try:
        for line in _CPUINFO.read_text(encoding="ascii", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    except OSError:
        pass
    facts["cpu"] = fields.get("model name") or fields.get("Hardware")
    facts["clock_mhz"] = float(fields["cpu MHz"]) if "cpu MHz" in fields else None
    try:
        facts["governor"] = (_CPUFREQ / "scaling_governor").read_text(encoding="ascii").strip()
    except OSError:
        facts["governor"] = None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**facts, "load_1min": load}
