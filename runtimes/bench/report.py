"""What a measurement of a model's engines came to: the table, and the same as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from brixel_edge.machine.memory import MIB
from brixel_edge.model.bundle import ResolvedModel
from brixel_edge.model.receipt_sections import BenchRow
from brixel_edge.runtimes.bench.bench import Schedule, measure, require_measured
from brixel_edge.runtimes.bench.machine import MachineState, machine_state
from brixel_edge.runtimes.engines import engines_of_model

_NAME_WIDTH = 43


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """The figures of one run of brixel-bench.

    Attributes:
        model: its name.
        size: (H, W) of its image [px].
        machine: before the first call.
        clock_mhz_after: after the last one.
        schedule: how often engines were called.
        is_side_by_side: whether they took turns.
        threads: of CPU backends; None is one per core.
        rows: one an engine.
    """

    model: str
    size: tuple[int, int]
    machine: MachineState
    clock_mhz_after: float | None
    schedule: Schedule
    is_side_by_side: bool
    threads: int | None
    rows: tuple[BenchRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "model": {"name": self.model, "size": list(self.size)},
            "machine": dataclasses.asdict(self.machine),
            "clock_mhz_after": self.clock_mhz_after,
            "protocol": {**dataclasses.asdict(self.schedule), "is_side_by_side": self.is_side_by_side},
            "threads": self.threads,
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }

    def table(self) -> str:
        """For people."""
        machine, schedule = self.machine, self.schedule
        width = max([_NAME_WIDTH, *(len(row.name) for row in self.rows)]) + 1
        return "\n".join(
            [
                f"{self.model}, {self.size[0]}x{self.size[1]}, batch 1",
                f"{machine.cpu}, {machine.cores} cores, {machine.system}",
                f"clock {_number(machine.clock_mhz)} MHz before, {_number(self.clock_mhz_after)} after, governor "
                f"{machine.governor or 'unknown'}, load {_number(machine.load_1min, 1)}",
                f"{schedule.warmup} calls to warm up, then {schedule.rounds} turns of {schedule.calls} calls, "
                + ("side by side" if self.is_side_by_side else "one engine after another"),
                "",
                f"{'engine':<{width}}{'p50 ms':>9}{'p99 ms':>9}{'per s':>8}{'peak MiB':>10}{'load s':>8}",
                *(_line(row, width) for row in self.rows),
            ]
        )


def _line(row: BenchRow, width: int) -> str:
    if row.error is not None:
        return f"{row.name:<{width}}  not run: {row.error}"
    memory = _number(row.peak_bytes / MIB if row.peak_bytes else None)
    device = f"  + {row.device_bytes / MIB:.0f} MiB on the device" if row.device_bytes else ""
    return (
        f"{row.name:<{width}}{row.p50_ms:>9.1f}{row.p99_ms:>9.1f}{row.per_s:>8.1f}{memory:>10}"
        f"{row.load_s:>8.2f}{device}"
    )


def _number(value: float | None, digits: int = 0) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def bench(
    resolved: ResolvedModel, schedule: Schedule, *, is_side_by_side: bool = True, threads: int | None = None
) -> BenchReport:
    """Measure every engine of a model that runs here.

    Raises:
        BuildError: none does.
    """
    engines = engines_of_model(resolved, threads)
    before = machine_state()
    groups = [engines] if is_side_by_side else [[engine] for engine in engines]
    rows = tuple(row for group in groups for row in measure(group, schedule))
    require_measured(rows)
    return BenchReport(
        model=resolved.name,
        size=(resolved.spec.image.height, resolved.spec.image.width),
        machine=before,
        clock_mhz_after=machine_state().clock_mhz,
        schedule=schedule,
        is_side_by_side=is_side_by_side,
        threads=threads,
        rows=rows,
    )
