"""Finding and importing TensorRT and TensorRT-RTX: two modules with the same classes, imported only when asked."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal

from brixel_edge.errors import BackendMissing

EngineKind = Literal["trt", "trt-rtx"]

MODULES: dict[EngineKind, str] = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
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
