"""What an engine is built for: kind and release of TensorRT, GPUs, precision."""

from __future__ import annotations

import contextlib
import importlib.metadata
from dataclasses import dataclass

from brixel_edge.errors import BackendMissing, SpecError
from brixel_edge.machine.cuda import current_device, import_cudart
from brixel_edge.machine.tensorrt import MODULES, EngineKind
from brixel_edge.model.spec import Precision


@dataclass(frozen=True, kw_only=True)
class BuildTarget:
    """What an engine is built for.

    Attributes:
        kind: TensorRT or TensorRT-RTX.
        version: of it, for instance `10.3.0`; None if not known yet.
        compute_capabilities: 87 for SM 8.7; empty if not known yet.
        precision: of the graph.
    """

    kind: EngineKind = "trt"
    version: str | None = None
    compute_capabilities: tuple[int, ...] = ()
    precision: Precision = "fp16"

    def __post_init__(self) -> None:
        if self.version is not None:
            version_tuple(self.version)


def target_here(kind: EngineKind, precision: Precision, rtx_capabilities: tuple[int, ...]) -> BuildTarget:
    """The target that a build on this machine has, as far as can be told without loading TensorRT.

    Args:
        kind: TensorRT or TensorRT-RTX.
        precision: of the graph.
        rtx_capabilities: the cards that a TensorRT-RTX engine is to be built for.
    """
    version, capabilities = None, rtx_capabilities
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(MODULES[kind])
    if kind == "trt":
        capabilities = ()
        with contextlib.suppress(BackendMissing):
            capabilities = (current_device(import_cudart()).compute_capability,)
    return BuildTarget(kind=kind, version=version, compute_capabilities=capabilities, precision=precision)


def version_tuple(version: str) -> tuple[int, ...]:
    """`10.3.0.26` as (10, 3, 0, 26); what follows a letter is left out.

    Raises:
        SpecError: it does not start with a number.
    """
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    if not numbers:
        raise SpecError(f"TensorRT version {version!r} is not a number such as 10.3.0")
    return tuple(numbers)
