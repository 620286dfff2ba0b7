"""A runtime: uint8 pixels in, feature maps out, whatever executes the graph. Two methods, chosen once, imported late.

Each backend is one module with a function `open_engine(path, settings)`; none is imported before it is chosen.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing, SpecError
from brixel_edge.machine.memory import release_free_memory
from brixel_edge.machine.tensorrt import INSTALL_HINTS, MODULES

Backend = Literal["auto", "ort", "openvino", "trt"]
OpenVinoPrecision = Literal["f32", "bf16"]

AUTO: Backend = "auto"
OPENERS: dict[str, str] = {
    "ort": "brixel_edge.runtimes.backends.ort",
    "openvino": "brixel_edge.runtimes.backends.openvino",
    "trt": "brixel_edge.runtimes.backends.trt",
}
# What must be importable, and what to type where it is not.
_NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "ort": (("onnxruntime",), "pip install onnxruntime (on NVIDIA GPUs: pip install 'brixel-edge[gpu]')"),
    "openvino": (("openvino",), "pip install 'brixel-edge[openvino]'"),
    "trt": (tuple(MODULES.values()), INSTALL_HINTS["trt"]),
}


# Samples of deformable attention, outputs of a graph only so that TensorRT does not fuse them. Nobody reads them.
MATERIALISED_PREFIX = "materialised."


class Runtime(Protocol):
    """An opened engine. Not for two threads at once."""

    def infer(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Run the graph.

        Args:
            image: (1, H, W, 3) uint8, C-contiguous, channels in the order that the spec names. Only read, and only
                during the call.

        Returns:
            every output by its name, `features` (1, D, h, w) among them, but none that is materialised for the
            compiler's sake. The arrays are the caller's: new at each call, and the runtime keeps no hold on them.
        """
        ...

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        ...


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """How to open an engine.

    Attributes:
        threads: of the CPU backends; None takes one per core.
        openvino_precision: in what OpenVINO computes float graphs; bf16 is faster where the CPU has it, and differs.
        is_proven_first: a TensorRT engine that was never proven on this device must pass its gate before it is handed
            out; False is for who runs the gate anyway.
    """

    threads: int | None = None
    openvino_precision: OpenVinoPrecision = "f32"
    is_proven_first: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SpecError(f"threads={self.threads} is not positive; leave it out for one per core")
        if self.openvino_precision not in get_args(OpenVinoPrecision):
            allowed = ", ".join(get_args(OpenVinoPrecision))
            raise SpecError(f"OpenVINO precision {self.openvino_precision!r} is not one of {allowed}")


Opener = Callable[[Path, RuntimeSettings], Runtime]


def has_backend(backend: str) -> bool:
    """Whether the backend's library is installed; imports nothing."""
    return any(importlib.util.find_spec(name) is not None for name in _NEEDS[backend][0])


def _has_cuda_build() -> bool:
    """Whether the ONNX Runtime here is the one for CUDA (extra `gpu`; on Jetson its own wheel of the same name)."""
    try:
        importlib.metadata.version("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def choose_backend(backend: str = AUTO) -> str:
    """The backend that a name stands for: auto is OpenVINO on x86 where it is installed, else ONNX Runtime.

    Whoever has installed ONNX Runtime's CUDA build means the GPU: then auto is ONNX Runtime.
    Measured: OpenVINO runs our float graphs 1.0 to 1.4 times as fast as ONNX Runtime in f32 on x86.

    Raises:
        SpecError: no such name.
        BackendMissing: its library is not installed; the message says what to type.
    """
    if backend not in get_args(Backend):
        raise SpecError(f"backend {backend!r} is not one of {', '.join(get_args(Backend))}")
    if backend == AUTO:
        is_x86 = platform.machine().lower() in ("x86_64", "amd64")
        backend = "openvino" if is_x86 and has_backend("openvino") and not _has_cuda_build() else "ort"
    modules, remedy = _NEEDS[backend]
    if not has_backend(backend):
        raise BackendMissing(f"backend {backend!r} needs {modules[0]}, which is not installed here: {remedy}")
    return backend


def load_backend(backend: str) -> Opener:
    """Import a backend, and give the function that opens its engines.

    Raises:
        BackendMissing: it is installed, but cannot be loaded.
    """
    try:
        return importlib.import_module(OPENERS[backend]).open_engine
    except ImportError as error:
        # A broken installation, a missing system library.
        raise BackendMissing(f"backend {backend!r} cannot be loaded ({error}): {_NEEDS[backend][1]}") from error


def open_runtime(path: str | Path, backend: str = AUTO, settings: RuntimeSettings | None = None) -> Runtime:
    """Open an engine; close it when done.

    Args:
        path: of the graph (.onnx), or of the engine (.plan) for TensorRT.
        backend: `auto`, `ort`, `openvino` or `trt`.
        settings: threads and the like.

    Raises:
        SpecError: no such backend.
        BackendMissing: the backend is not installed here.
        BundleError: the backend cannot read the file.
    """
    opener = load_backend(choose_backend(backend))
    runtime = opener(Path(path), settings or RuntimeSettings())
    release_free_memory()
    return runtime
