"""Roots of systems that are not here, as files: a Jetson Orin Nano, a Raspberry Pi 5, an x86 server without display.

Forms as the systems' documentation and public listings show them; cut to the fields that are read.
"""

from __future__ import annotations

from pathlib import Path

ORIN_CPU = """\
processor\t: 0
model name\t: ARMv8 Processor rev 1 (v8l)
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat ilrcpc flagm paca pacg
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

processor\t: 1
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""  # noqa: E501
PI_CPU = """\
processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b
"""
PI_4_CPU = """\
processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08
"""
SERVER_CPU = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni
"""
NVPMODEL = """\
# comment
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""
DPKG = """\
Package: libnvinfer-lean10
Status: install ok installed
Version: 9.9.9-1

Package: libnvinfer10
Status: install ok installed
Architecture: arm64
Version: 10.3.0.30-1+cuda12.5

Package: libnvinfer8
Status: deinstall ok config-files
Version: 8.6.2-1
"""
ZRAM = "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n/dev/zram0  partition\t636244\t0\t5\n"
SWAPFILE = ZRAM + "/swapfile  file\t8388604\t0\t-2\n"


def meminfo(total_kib: int, available_kib: int, swap_kib: int = 0) -> str:
    return f"MemTotal: {total_kib:>10} kB\nMemAvailable: {available_kib:>10} kB\nSwapTotal: {swap_kib:>10} kB\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def jetson_orin_nano(
    root: Path, *, l4t: str = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic"
) -> Path:
    write(
        root,
        {
            "proc/cpuinfo": ORIN_CPU,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc/meminfo": meminfo(3_400_000, 2_100_000, 1_700_000),
            "proc/swaps": ZRAM,
            "etc/nv_tegra_release": l4t,
            "etc/nvpmodel.conf": NVPMODEL,
            "var/lib/nvpmodel/status": "pmode:0000",
            "var/lib/dpkg/status": DPKG,
            "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
        },
    )
    target = root / "etc/systemd/system/default.target"
    target.parent.mkdir(parents=True)
    target.symlink_to("/lib/systemd/system/graphical.target")
    return root


def raspberry_pi_5(root: Path) -> Path:
    files = {
        "proc/cpuinfo": PI_CPU,
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/meminfo": meminfo(8_245_000, 6_900_000, 102_384),
    }
    return write(root, files)


def x86_server(root: Path) -> Path:
    return write(root, {"proc/cpuinfo": SERVER_CPU, "proc/meminfo": meminfo(16_000_000, 9_000_000)})
