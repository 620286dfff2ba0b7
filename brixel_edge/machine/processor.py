"""Which processor this is, as far as its arithmetic goes: its name, its architecture and the instructions it has."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The processor that a CPU backend computes on.

    Attributes:
        name: as the system tells it; on ARM often implementer and part. None where it says nothing.
        architecture: `x86_64`, `aarch64`, ...
        features: digest of the instruction sets that the system lists; kernels are chosen by them.
    """

    name: str | None
    architecture: str
    features: str

    def __str__(self) -> str:
        return self.name or self.architecture


def processor(cpuinfo: Path = CPUINFO) -> Processor:
    """The one that this process runs on."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="ascii", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or fields.get("Hardware")
    if not name and "CPU part" in fields:
        name = f"ARM implementer {fields.get('CPU implementer')} part {fields['CPU part']}"
    listed = fields.get("flags") or fields.get("Features") or ""
    features = hashlib.sha256(" ".join(sorted(listed.split())).encode()).hexdigest()[:16]
    return Processor(name=name, architecture=platform.machine().lower(), features=features)
