"""TensorRT: whether it is here, and whether it is the one that this board or driver needs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.machine.board import Board
from brixel_edge.machine.system_files import SystemFiles
from brixel_edge.machine.tensorrt import INSTALL_HINTS
from brixel_edge.runtimes.doctor.asking import Answer
from brixel_edge.runtimes.doctor.findings import Finding

_PACKAGES = ("libnvinfer10", "libnvinfer8", "libnvinfer-bin")
_BINDINGS = "usr/lib/python3*/dist-packages/tensorrt"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The Python that asks.

    Attributes:
        python: its version, `3.10`.
        is_virtual: a virtual environment.
        has_system_packages: packages of the system are seen.
        packages: versions by name of those that matter.
    """

    python: str
    is_virtual: bool
    has_system_packages: bool
    packages: Mapping[str, str]


def this_environment(packages: Mapping[str, str]) -> Environment:
    """Of this process."""
    is_virtual = sys.prefix != sys.base_prefix
    settings = Path(sys.prefix, "pyvenv.cfg")
    text = settings.read_text(encoding="utf-8").lower() if is_virtual and settings.is_file() else ""
    return Environment(
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        is_virtual=is_virtual,
        has_system_packages=not is_virtual or "include-system-site-packages = true" in text,
        packages=packages,
    )


def tensorrt_findings(
    system: SystemFiles, board: Board, environment: Environment, answer: Answer | None, gpu: Answer | None
) -> list[Finding]:
    """Of TensorRT; nothing where nobody could use it.

    Args:
        system: its files.
        board: on a Jetson TensorRT comes with the system.
        environment: the Python that asks.
        answer: of the module; None where it is not installed.
        gpu: of CUDA; None where cuda-python is not installed.
    """
    if board.is_jetson:
        return [_on_jetson(system, environment, answer)]
    has_gpu = gpu is not None and gpu.failure is None
    if answer is None:
        if not has_gpu:
            return []
        return [Finding(topic="TensorRT", state="note", text="not installed", remedy=INSTALL_HINTS["trt"])]
    if answer.failure is not None:
        return [Finding(topic="TensorRT", state="no", text=answer.failure, remedy=INSTALL_HINTS["trt"])]
    text, facts = f"{answer.facts['build']}", dict(answer.facts)
    wheel = next((name for name in environment.packages if name.startswith("tensorrt-cu")), None)
    if wheel is not None and has_gpu and gpu is not None:
        wanted, here = int(wheel.removeprefix("tensorrt-cu")[:2]), gpu.facts["cuda_version"] // 1000
        if wanted > here:
            text = f"{text} is for CUDA {wanted}, the driver has CUDA {here}"
            remedy = f"pip uninstall {wheel} && pip install 'brixel-edge[trt-cu{here}]', or a newer driver"
            return [Finding(topic="TensorRT", state="no", text=text, remedy=remedy, facts=facts)]
    if not has_gpu:
        text = f"{text}, but no GPU that it could use"
        return [Finding(topic="TensorRT", state="note", text=text, facts=facts)]
    return [Finding(topic="TensorRT", state="ok", text=text, facts=facts)]


def _on_jetson(system: SystemFiles, environment: Environment, answer: Answer | None) -> Finding:
    package = next((found for name in _PACKAGES if (found := system.installed(name))), "")
    own = package.partition("-")[0]  # 10.3.0.30-1+cuda12.5
    facts = {"system": own or None}
    if answer is None or answer.failure is not None:
        return _absent_on_jetson(system, environment, own, answer.failure if answer else None)
    build = answer.facts["build"]
    facts |= answer.facts
    if own and not (build.startswith(own) or own.startswith(build)):
        text = f"{build} ({answer.facts['file']}) is not the board's own, which is {own}"
        wheels = " ".join(name for name in environment.packages if name.startswith("tensorrt")) or "tensorrt"
        remedy = f"pip uninstall {wheels}; the board's own then shows, in an environment with system site packages"
        return Finding(topic="TensorRT", state="no", text=text, remedy=remedy, facts=facts)
    return Finding(topic="TensorRT", state="ok", text=f"{build}, the board's own", facts=facts)


def _absent_on_jetson(system: SystemFiles, environment: Environment, own: str, failure: str | None) -> Finding:
    """How to get it: it is on the board, or can be installed there; an index of packages does not have the board's."""
    bindings = [path for path in system.found(_BINDINGS) if path.is_dir()]
    python = _python_of(bindings)
    facts = {"system": own or None, "bindings": [str(path) for path in bindings]}
    venv = "/usr/bin/python3 -m venv --system-site-packages .venv && .venv/bin/pip install 'brixel-edge[jetpack6]'"
    if failure is not None:
        text, remedy = f"does not load: {failure}", "sudo apt install --reinstall nvidia-jetpack"
    elif not bindings:
        text = f"{own} is on the board, its Python package is not" if own else "is not on this board"
        remedy = f"sudo apt install {'python3-libnvinfer' if own else 'nvidia-jetpack'}, then {venv}"
    elif python and python != environment.python:
        text = f"the board's own ({own or 'unknown release'}) is for Python {python}, this is {environment.python}"
        remedy = venv
    elif environment.is_virtual and not environment.has_system_packages:
        text, remedy = f"the board has {own or 'it'}, but this environment hides the system's packages", venv
    else:
        text, remedy = f"the board has {own or 'it'}, but this Python does not see {bindings[0].parent}", venv
    return Finding(topic="TensorRT", state="no", text=text, remedy=remedy, facts=facts)


def _python_of(bindings: list[Path]) -> str:
    """`3.10`, from the folder or the compiled module in it; empty where neither says."""
    for folder in bindings:
        version = folder.parent.parent.name.removeprefix("python")
        if "." in version:
            return version
        for module in folder.glob("*.cpython-3*.so"):
            digits = module.name.split("cpython-3")[1].split("-")[0]
            return f"3.{digits}"
    return ""
