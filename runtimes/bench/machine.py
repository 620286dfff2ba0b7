"""The processor and its clock, as far as the system tells: what figures of two runs differ by."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.machine.processor import CPUINFO, processor

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """A machine at one moment; None where the system does not say."""

    system: str
    cores: int | None
    cpu: str | None
    clock_mhz: float | None
    governor: str | None
    load_1min: float | None


def machine_state() -> MachineState:
    """Of this machine, now."""
    fields: dict[str, str] = {}
    for line in _text(CPUINFO).splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return MachineState(
        system=platform.platform(terse=True),
        cores=os.cpu_count(),
        cpu=processor().name,
        clock_mhz=float(fields["cpu MHz"]) if "cpu MHz" in fields else None,
        governor=_text(_GOVERNOR).strip() or None,
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace")
    return ""
