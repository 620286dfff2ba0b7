"""Finding and importing TensorRT and TensorRT-RTX: two modules with the same classes, imported only when asked."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from pathlib import Path
from typing import Any, Literal

from brixel_edge.errors import BackendMissing

EngineKind = Literal["trt", "trt-rtx"]

MODULES: dict[EngineKind, str] = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
_LIBRARIES: dict[EngineKind, str] = {"trt": "libnvinfer.so", "trt-rtx": "libtensorrt_rtx.so"}
_MAPS = Path("/proc/self/maps")
INSTALL_HINTS: dict[EngineKind, str] = {
    "trt": (
        "on Jetson use JetPack's own (python3 -m venv --system-site-packages); on x86 with an NVIDIA GPU "
        "pip install 'brixel-edge[trt]'"
    ),
    "trt-rtx": "pip install 'brixel-edge[trt-rtx]'",
}


def has_tensorrt(kind: EngineKind) -> bool:
    """Whether its module is installed; imports nothing."""
    return importlib.util.find_spec(MODULES[kind]) is not None


def import_tensorrt(kind: EngineKind, needed_by: str) -> Any:
    """The module of a kind.

    Args:
        kind: TensorRT or TensorRT-RTX.
        needed_by: what asks for it, for the message.

    Raises:
        BackendMissing: it is not installed, or one of its libraries is not; the message says what to type.
    """
    try:
        return importlib.import_module(MODULES[kind])
    except (ImportError, OSError) as error:
        raise BackendMissing(f"{needed_by} needs {MODULES[kind]} ({error}); {INSTALL_HINTS[kind]}") from error


def full_build(module: Any, kind: EngineKind) -> str:
    """The release with its build number, `10.3.0.30`: two builds of one release may differ in their kernels.

    A module says three numbers on some systems; the library that it has loaded says four.
    """
    version = str(module.__version__)
    if version.count(".") >= 3:
        return version
    number = _library_build(_LIBRARIES[kind])
    return version if number is None else f"{version}.{number}"


def _library_build(name: str) -> int | None:
    try:
        lines = _MAPS.read_text(encoding="utf-8").splitlines()
        paths = [line.split(maxsplit=5)[-1] for line in lines if f"/{name}" in line]
        return int(ctypes.CDLL(paths[0]).getInferLibBuildVersion()) if paths else None
    except (OSError, AttributeError):  # no /proc, or a library without that function
        return None
