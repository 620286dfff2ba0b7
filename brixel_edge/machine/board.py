"""What a board says of itself: its device tree, a Jetson's release, power mode and desktop, memory and swap."""

from __future__ import annotations

import re
from dataclasses import dataclass

from brixel_edge.machine.system_files import SystemFiles

# L4T is the release of the board's system; JetPack names it. 35 has Python 3.8.
_JETPACKS = {32: 4, 35: 5, 36: 6, 38: 7}


@dataclass(frozen=True, kw_only=True)
class PowerMode:
    """A Jetson's power mode.

    Attributes:
        number: of the mode, as `nvpmodel -m` takes it.
        name: for instance `15W`; empty where the board does not say.
        fastest: number of the mode without a limit (MAXN); None where there is none.
    """

    number: int
    name: str
    fastest: int | None


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Attributes:
        model: of its device tree; empty on a machine without one.
        l4t: a Jetson's release, for instance `36.4.3`; None elsewhere.
        power: a Jetson's power mode; None where nothing says.
        has_desktop: a graphical desktop starts with it.
    """

    model: str
    l4t: str | None
    power: PowerMode | None
    has_desktop: bool

    @property
    def is_jetson(self) -> bool:
        """Whether it is one of NVIDIA's."""
        return self.l4t is not None or "jetson" in self.model.lower()

    @property
    def jetpack(self) -> int | None:
        """The number of its JetPack; None where that is not known."""
        return None if self.l4t is None else _JETPACKS.get(int(self.l4t.partition(".")[0]))


def board(system: SystemFiles) -> Board:
    """The one whose files these are."""
    return Board(
        model=system.text("proc/device-tree/model"),
        l4t=_l4t(system.text("etc/nv_tegra_release")),
        power=_power_mode(system),
        has_desktop="graphical" in system.link("etc/systemd/system/default.target"),
    )


def _l4t(text: str) -> str | None:
    """`# R36 (release), REVISION: 4.3, GCID: ...` as `36.4.3`."""
    match = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else None


def _power_mode(system: SystemFiles) -> PowerMode | None:
    table = system.text("etc/nvpmodel.conf")
    names = {int(number): name for number, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", table)}
    chosen = re.search(r"pmode:(\d+)", system.text("var/lib/nvpmodel/status"))
    chosen = chosen or re.search(r"<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>", table)
    if chosen is None:
        return None
    fastest = next((number for number, name in names.items() if name.upper().startswith("MAXN")), None)
    return PowerMode(number=int(chosen[1]), name=names.get(int(chosen[1]), ""), fastest=fastest)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a machine [bytes]; None where the system does not say.

    Attributes:
        total: of the machine; on a Jetson the GPU's, too.
        available: that can be given without swapping.
        swap: of all kinds.
        swap_on_disk: of it, what is not compressed memory (zram).
    """

    total: int | None
    available: int | None
    swap: int | None
    swap_on_disk: int


def memory(system: SystemFiles) -> Memory:
    """What /proc says."""
    text = system.text("proc/meminfo")

    def field(name: str) -> int | None:
        match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
        return int(match[1]) << 10 if match else None

    rows = [line.split() for line in system.text("proc/swaps").splitlines()[1:]]
    disk = sum(int(row[2]) << 10 for row in rows if len(row) >= 3 and "zram" not in row[0])
    return Memory(total=field("MemTotal"), available=field("MemAvailable"), swap=field("SwapTotal"), swap_on_disk=disk)
