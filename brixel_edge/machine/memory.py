"""Memory of this process, and memory as people write it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from brixel_edge.errors import SpecError

MIB = 1 << 20
_STATUS, _MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")
# G is GiB, as in ulimit, docker and systemd; GB is 10^9.
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": MIB, "g": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"t": 1 << 40, "tb": 10**12, "kib": 1 << 10, "mib": MIB, "gib": 1 << 30, "tib": 1 << 40}


def parse_bytes(text: str) -> int:
    """Read an amount of memory or disk: `2GiB`, `900M`, `1.5GB`, `1TiB`.

    Raises:
        SpecError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise SpecError(f"{text!r} is not a size in bytes; for instance 2GiB, 900MiB or 1.5GB")
    return round(float(match[1]) * _UNITS[match[2]])


def format_bytes(size: int) -> str:
    """In MiB, the unit of every table here."""
    return f"{size / MIB:.0f} MiB"


def rss_bytes() -> int | None:
    """What the process holds in memory now; None where the system does not say."""
    return _status_field("VmRSS") or peak_rss_bytes()


def peak_rss_bytes() -> int | None:
    """The most that the process ever held in memory; None where the system does not say.

    From /proc on Linux: getrusage's figure there starts from the parent's when a large process starts a small one.
    """
    if (peak := _status_field("VmHWM")) is not None:
        return peak
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest << 10


def own_peak_bytes_of(pid: int) -> int | None:
    """The most that another process ever held, without what it shares now; None where the system does not say."""
    file = Path(f"/proc/{pid}/status")
    peak = _status_field("VmHWM", file)
    return None if peak is None else peak - (_status_field("RssShmem", file) or 0)


def available_bytes() -> int | None:
    """What the system can give without swapping; None where it does not say."""
    return _status_field("MemAvailable", _MEMINFO)


def free_swap_bytes() -> int | None:
    """Swap that is not used; None where the system does not say."""
    return _status_field("SwapFree", _MEMINFO)


def parent_rss_bytes() -> int | None:
    """What the process that started this one holds in memory; None where the system does not say."""
    return _status_field("VmRSS", Path(f"/proc/{os.getppid()}/status"))


def _status_field(name: str, file: Path | None = None) -> int | None:
    try:
        text = (file or _STATUS).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) << 10 if match else None


def release_free_memory() -> None:
    """Give back what the C library keeps of freed memory; glibc only, elsewhere nothing.

    Engines free much of what they needed for loading: 30 to 60 MiB for a ViT-S in ONNX Runtime.
    """
    import ctypes

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    trim(0)
