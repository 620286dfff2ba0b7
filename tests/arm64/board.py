"""An ARM64 board without a board: Debian's Python and the device's wheels for it, under qemu's user emulation.

Everything lies in one folder and nothing is installed: packages and wheels are fetched once and unpacked there, the
machine's own apt stays as it is. Only times mean nothing here; kernels, wheels and integers are the processor's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".arm64"
# Cortex-A72 is the Raspberry Pi 4's (no dot product), A76 the Pi 5's and the next of kin of the A78AE in Orin.
CPUS = {"cortex-a72": "0xd08", "cortex-a76": "0xd0b"}
_FEATURES = {
    "cortex-a72": "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid",
    "cortex-a76": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
}
_PACKAGES = ("python3", "python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
_WHEELS = {"site": ("numpy", "opencv-python-headless", "onnxruntime"), "openvino": ("openvino",)}
_PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in (36, 35, 34, 31, 28, 27, 26, 24, 17)] + [
    "manylinux2014_aarch64"
]


class NoBoardError(RuntimeError):
    """The board cannot be put together here; the message says what is missing."""


@dataclass(frozen=True)
class Board:
    """Where its parts lie.

    Attributes:
        root: of ARM64 Debian packages.
        site: of the device's wheels; our own among them.
        openvino: of OpenVINO's, which is an extra.
        qemu: the emulator.
        python: `3.11`.
    """

    root: Path
    site: Path
    openvino: Path
    qemu: Path
    python: str

    def command(self, cpu: str, *arguments: str, has_openvino: bool = False) -> list[str]:
        """A command line that runs Python on a processor, in a mount namespace of its own.

        onnxruntime reads the processor from /proc/cpuinfo, which qemu passes through: the host's would crash it.
        """
        fake = FOLDER / f"cpuinfo.{cpu}"
        fake.write_text("".join(_core(number, cpu) for number in range(2)), encoding="ascii")
        path = f"{self.site}:{self.openvino}" if has_openvino else str(self.site)
        emulator = [str(self.qemu), "-cpu", cpu, "-L", str(self.root), "-E", f"PYTHONPATH={path}"]
        inside = 'mount --bind "$0" /proc/cpuinfo && exec "$@"'
        namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
        program = str(self.root / "usr" / "bin" / f"python{self.python}")
        return [*namespace, "sh", "-c", inside, str(fake), *emulator, program, *arguments]

    def run(self, cpu: str, *arguments: str, cwd: Path, has_openvino: bool = False) -> subprocess.CompletedProcess[str]:
        """Run Python there; gives what it printed."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("VIRTUAL_ENV", "PYTHON"))}
        clean |= {"OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
        command = self.command(cpu, *arguments, has_openvino=has_openvino)
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=clean, timeout=900)


def _core(number: int, cpu: str) -> str:
    fields = {
        "processor": str(number), "BogoMIPS": "108.00", "Features": _FEATURES[cpu], "CPU implementer": "0x41",
        "CPU architecture": "8", "CPU variant": "0x4", "CPU part": CPUS[cpu], "CPU revision": "1",
    }  # fmt: skip
    return "".join(f"{name}\t: {value}\n" for name, value in fields.items()) + "\n"


def set_up(wheel: Path) -> Board:
    """Fetch what is not there yet, and put the given wheel of ours in place.

    Raises:
        NoBoardError: no Debian, no registry, no right to make a namespace.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise NoBoardError("the ARM64 root is made of Debian packages, and apt-get is not here")
    FOLDER.mkdir(exist_ok=True)
    if not (FOLDER / ".packages").is_file():
        _unpack_packages()
        (FOLDER / ".packages").touch()
    [python] = [path.name.removeprefix("python") for path in (FOLDER / "root" / "usr" / "bin").glob("python3.*[0-9]")]
    if not (FOLDER / ".wheels").is_file():
        _unpack_wheels(python)
        (FOLDER / ".wheels").touch()
    board = Board(
        root=FOLDER / "root",
        site=FOLDER / "site",
        openvino=FOLDER / "openvino",
        qemu=FOLDER / "host" / "usr" / "bin" / "qemu-aarch64-static",
        python=python,
    )
    for old in board.site.glob("brixel_edge*"):
        shutil.rmtree(old)
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(board.site)], check=True)
    trial = board.run("cortex-a76", "-c", "import platform; print(platform.machine())", cwd=FOLDER)
    if trial.stdout.strip() != "aarch64":
        raise NoBoardError(f"the emulated Python does not start: {trial.stderr.strip()[-300:]}")
    return board


def _unpack_packages() -> None:
    """Debian's Python for ARM64 under root/, the emulator for this machine under host/."""
    host = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    for architecture, packages, target in ((host, ("qemu-user-static",), "host"), ("arm64", _PACKAGES, "root")):
        state, archives = FOLDER / f"apt.{architecture}", FOLDER / f"debs.{architecture}"
        for folder in (state / "lists" / "partial", archives / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        options = [
            f"-oAPT::Architecture={architecture}", f"-oAPT::Architectures={architecture}", "-oDebug::NoLocking=1",
            f"-oDir::State::Lists={state / 'lists'}", f"-oDir::State::status={state / 'status'}",
            f"-oDir::Cache::archives={archives}", "-oAPT::Sandbox::User=root",
            f"-oDir::Cache::pkgcache={state / 'packages.bin'}", f"-oDir::Cache::srcpkgcache={state / 'sources.bin'}",
        ]  # fmt: skip
        _checked(["apt-get", *options, "-qq", "update"])
        get = ["-qq", "-y", "--download-only", "install", "--no-install-recommends", *packages]
        _checked(["apt-get", *options, *get])
        for package in sorted(archives.glob("*.deb")):
            _checked(["dpkg", "-x", str(package), str(FOLDER / target)])
        shutil.rmtree(archives)
        shutil.rmtree(state)


def _unpack_wheels(python: str) -> None:
    """The device's packages in the versions of the lock."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    platforms = [part for platform in _PLATFORMS for part in ("--platform", platform)]
    tag = f"cp{python.replace('.', '')}"
    abis = [part for abi in (tag, "abi3", "none") for part in ("--abi", abi)]
    for target, names in _WHEELS.items():
        wheels = FOLDER / "wheels"
        pins = [f"{name}=={_locked(text, name, python)}" for name in names]
        which = ["--python-version", python, "--implementation", "cp", *abis, *platforms]
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _checked([*pip, "download", "--only-binary=:all:", *which, "-d", str(wheels), *pins])
        for wheel in sorted(wheels.glob("*.whl")):
            _checked([sys.executable, "-m", "zipfile", "-e", str(wheel), str(FOLDER / target)])
        shutil.rmtree(wheels)


def _locked(lock: str, name: str, python: str) -> str:
    """The version that the lock has for a Python; where it has several, each says for which."""
    from packaging.markers import Marker

    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    environment["platform_machine"] = "aarch64"
    for match in re.finditer(rf"^{re.escape(name)}==(\S+)(?: ; ([^\\\n]+))? \\$", lock, re.MULTILINE):
        if match[2] is None or Marker(match[2]).evaluate(environment):
            return match[1]
    raise NoBoardError(f"requirements.lock has no {name} for Python {python} on aarch64")


def _checked(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise NoBoardError(f"{' '.join(command[:3])} ...: {(run.stderr or run.stdout).strip()[-300:]}")
