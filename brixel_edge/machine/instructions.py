"""Which instructions of a processor matter to a network: integer dot products, bfloat16, half precision.

By the names that Linux lists in /proc/cpuinfo: `flags` on x86, `Features` on ARM.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from brixel_edge.machine.system_files import SystemFiles

# What each kind of arithmetic is done by, the better first.
_X86 = {
    "vectors": ("avx512f", "avx2"),
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni"),
    "bf16": ("amx_bf16", "avx512_bf16"),
    "fp16": ("amx_fp16", "avx512_fp16"),
}
_ARM = {
    "vectors": ("sve2", "sve", "asimd", "neon"),
    "int8": ("i8mm", "asimddp"),
    "bf16": ("bf16",),
    "fp16": ("asimdhp",),
}
# Of `CPU part`, for implementer 0x41, ARM.
_ARM_PARTS = {
    "0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76", "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE", "0xd49": "Neoverse N2",
    "0xd4f": "Neoverse V2", "0xd83": "Neoverse V3AE",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """What a processor can do.

    Attributes:
        family: `x86`, `arm`, or None where the system lists nothing.
        name: of the processor; empty where the system does not say.
        cores: logical ones.
        vectors: of ordinary floating point, the best first; as the next ones, by the system's names.
        int8: dot products of 8-bit integers (VNNI, ARM's dot product, AMX).
        bf16: arithmetic of bfloat16.
        fp16: arithmetic of half precision.
    """

    family: Literal["x86", "arm"] | None
    name: str
    cores: int
    vectors: tuple[str, ...] = ()
    int8: tuple[str, ...] = ()
    bf16: tuple[str, ...] = ()
    fp16: tuple[str, ...] = ()


def instructions(system: SystemFiles) -> Instructions:
    """What the system lists of its first core: big and little cores of one board have the same instructions."""
    text = system.text("proc/cpuinfo")
    fields = dict(reversed(re.findall(r"^([^\t:\n]+?)\s*: ?(.*)$", text, re.MULTILINE)))
    cores = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    if "flags" in fields:
        listed = set(fields["flags"].split())
        return Instructions(family="x86", name=fields.get("model name", ""), cores=cores, **_of(_X86, listed))
    if "Features" in fields:
        return Instructions(
            family="arm", name=_arm_name(fields), cores=cores, **_of(_ARM, set(fields["Features"].split()))
        )
    return Instructions(family=None, name=fields.get("model name", ""), cores=cores)


def _of(names: dict[str, tuple[str, ...]], listed: set[str]) -> dict[str, tuple[str, ...]]:
    return {kind: tuple(name for name in candidates if name in listed) for kind, candidates in names.items()}


def _arm_name(fields: dict[str, str]) -> str:
    if fields.get("CPU implementer") == "0x41" and fields.get("CPU part") in _ARM_PARTS:
        return _ARM_PARTS[fields["CPU part"]]
    return fields.get("model name") or f"ARM {fields.get('CPU implementer', '?')} {fields.get('CPU part', '?')}"
