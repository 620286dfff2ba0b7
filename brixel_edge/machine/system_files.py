"""The files in which a Linux system says what it is; below another root in tests and in mounted images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SystemFiles:
    """A system's /proc, /sys and /etc.

    Attributes:
        root: where the system lies.
    """

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """Of a file, by its name without the first slash."""
        return self.root / name

    def text(self, name: str) -> str:
        """What a file says; empty where it is not there or may not be read. Device trees end strings with a zero."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").rstrip("\0").strip()
        except OSError:
            return ""

    def found(self, pattern: str) -> list[Path]:
        """Files by a pattern, in the order of their names; numbers in them count as numbers."""
        return sorted(self.root.glob(pattern), key=_in_numbers)

    def link(self, name: str) -> str:
        """Where a symbolic link leads; empty where there is none."""
        try:
            return str(self.path(name).readlink())
        except OSError:
            return ""

    def installed(self, package: str) -> str:
        """The version of a Debian package; empty where it is not installed."""
        listed = re.search(
            rf"^Package: {re.escape(package)}\n((?:.+\n)*)", self.text("var/lib/dpkg/status") + "\n", re.MULTILINE
        )
        if listed is None or "Status: install ok installed" not in listed[1]:
            return ""
        version = re.search(r"^Version: (\S+)$", listed[1], re.MULTILINE)
        return version[1] if version else ""


def _in_numbers(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part]
