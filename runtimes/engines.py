"""Which engines can run here, and opening one. A backend is a module with a function `open_engine(path, settings)`.

None is imported before it is chosen.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from brixel_edge.errors import BackendMissing, BundleError, SpecError
from brixel_edge.machine.memory import release_free_memory
from brixel_edge.machine.openvino_hint import PRECISION_KEY, OpenVinoPrecision, has_bf16
from brixel_edge.machine.tensorrt import INSTALL_HINTS, MODULES
from brixel_edge.model.bundle import ORT_INT8_NAME, TRT_INT8_NAME, ResolvedModel, graph_name
from brixel_edge.model.engine_choice import ENGINES, EngineChoice
from brixel_edge.model.engine_file import identity_from_name
from brixel_edge.model.onnx_file import read_onnx_metadata
from brixel_edge.model.spec import ModelSpec
from brixel_edge.runtimes.runtime import Runtime, RuntimeSettings

BackendName = Literal["auto", "ort", "openvino", "trt"]
Opener = Callable[[Path, RuntimeSettings], Runtime]

AUTO: BackendName = "auto"
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


def preferred_backends() -> tuple[str, str]:
    """The CPU backends where nothing else decides: OpenVINO first on x86, ONNX Runtime elsewhere.

    Whoever has installed ONNX Runtime's CUDA build means the GPU: then it comes first, too.
    Measured: OpenVINO runs our float graphs 1.0 to 1.4 times as fast as ONNX Runtime in f32 on x86.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return ("openvino", "ort") if is_x86 and not _has_cuda_build() else ("ort", "openvino")


def choose_backend(backend: str = AUTO) -> str:
    """The backend that a name stands for; auto is the first preferred one that is installed.

    Raises:
        SpecError: no such name.
        BackendMissing: its library is not installed; the message says what to type.
    """
    if backend not in get_args(BackendName):
        raise SpecError(f"backend {backend!r} is not one of {', '.join(get_args(BackendName))}")
    if backend == AUTO:
        backend = next((name for name in preferred_backends() if has_backend(name)), "ort")
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


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A file of a model with a backend that runs it.

    Attributes:
        path: of the graph or plan.
        backend: that runs it.
        size: (H, W) of its image [px].
        threads: of CPU backends; None takes one per core.
        openvino_precision: as in `RuntimeSettings`.
    """

    path: Path
    backend: str
    size: tuple[int, int]
    threads: int | None = None
    openvino_precision: OpenVinoPrecision = "auto"

    @property
    def name(self) -> str:
        """For instance `graph.fp32.onnx, ort`."""
        hint = f" {self.openvino_precision}" if self.openvino_precision != "auto" else ""
        return f"{self.path.name}, {self.backend}{hint}"

    @property
    def precision(self) -> str:
        """Of the graph or plan, as its file name says."""
        identity = identity_from_name(self.path.name)
        return identity.precision if identity is not None else self.path.name.split(".")[1]

    @property
    def choice(self) -> EngineChoice | None:
        """Kind and precision; None for a file that is not named as ours are."""
        identity = identity_from_name(self.path.name)
        if identity is not None:
            return identity.choice
        return next((choice for choice in ENGINES if (choice.kind, choice.precision) == ("onnx", self.precision)), None)

    @property
    def option(self) -> str:
        """What `brixel-export --engine` calls it."""
        if self.backend != "trt":
            return "onnx" if self.precision == "fp32" else f"onnx-{self.precision}"
        return f"trt-{self.precision}" if self.choice is None else str(self.choice)


def backends_of_graph(name: str) -> tuple[str, ...]:
    """The CPU backends that a graph of a model directory is for, by its file name.

    ONNX Runtime has no bfloat16 kernels on a CPU, and runs TensorRT's form of INT8 in floating point; its own form of
    INT8 is for it alone. What TensorRT's plans are built from is for no CPU.
    """
    if name in (ORT_INT8_NAME, TRT_INT8_NAME):
        return ("ort",) if name == ORT_INT8_NAME else ()
    return ("openvino",) if name in (graph_name("bf16"), graph_name("int8")) else ("ort", "openvino")


def engines_of_folder(folder: Path, spec: ModelSpec, threads: int | None = None) -> list[Engine]:
    """Every graph and plan of a folder with every backend that may run it here.

    Args:
        folder: a model directory, or one in the making.
        spec: of the model.
        threads: of CPU backends.
    """
    found: list[Engine] = []

    def add(path: Path, backend: str, openvino_precision: OpenVinoPrecision = "auto") -> None:
        size = (spec.image.height, spec.image.width)
        found.append(
            Engine(path=path, backend=backend, size=size, threads=threads, openvino_precision=openvino_precision)
        )

    has_openvino = has_backend("openvino")
    for path in sorted(folder.glob("graph.*.onnx")):
        for backend in backends_of_graph(path.name):
            if backend != "openvino" or has_openvino:
                add(path, backend)
        if has_openvino and path.name == graph_name("fp32") and has_bf16() and not _is_bf16_too_coarse(folder):
            add(path, "openvino", "bf16")
    for path in sorted(folder.glob("engine.*.plan")):
        add(path, "trt")
    return found


def _is_bf16_too_coarse(folder: Path) -> bool:
    """Whether an INT8 graph says that its float part loses too much in bf16: then the float graph does, too."""
    with suppress(BundleError):  # none, or a broken one, which is said where it is opened
        return read_onnx_metadata(folder / graph_name("int8")).get(PRECISION_KEY) == "f32"
    return False


def engines_of_model(resolved: ResolvedModel, threads: int | None = None) -> list[Engine]:
    """Every engine of a model directory, or a bare graph with every CPU backend that is installed."""
    if resolved.root is not None:
        return engines_of_folder(resolved.root, resolved.spec, threads)
    size = (resolved.spec.image.height, resolved.spec.image.width)
    backends = ("ort", "openvino") if has_backend("openvino") else ("ort",)
    return [Engine(path=resolved.graph, backend=backend, size=size, threads=threads) for backend in backends]
