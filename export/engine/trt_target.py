"""What an engine is built for, and what is known to go wrong there: the words of the table in `known_bad`.

What is not known of a target is not held against a row: a target of unknown release is concerned by all of them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from dataclasses import dataclass
from typing import Literal

from brixel_edge.errors import BackendMissing, SpecError
from brixel_edge.machine.cuda import current_device, import_cudart
from brixel_edge.machine.tensorrt import MODULES, EngineKind
from brixel_edge.model.spec import Precision

Sampler = Literal["gridsample", "gather", "materialised"]
Pattern = Literal[
    "gridsample",
    "gridsample-linear",
    "attention",
    "vit",
    "norm-layer",
    "norm-decomposed",
    "control-flow",
    "conv-transpose",
    "qdq",
]


@dataclass(frozen=True, kw_only=True)
class Target:
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


def target_here(kind: EngineKind, precision: Precision, rtx_capabilities: tuple[int, ...]) -> Target:
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
    return Target(kind=kind, version=version, compute_capabilities=capabilities, precision=precision)


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


@dataclass(frozen=True, kw_only=True)
class KnownBad:
    """One known trouble.

    Attributes:
        thread: where it was reported.
        pattern: the part of the graph that it needs.
        since: first release it was seen in.
        until: first release known to be free of it; None if none is known.
        what: what goes wrong.
        advice: what to do.
        kind: TensorRT or TensorRT-RTX.
        compute_capabilities: GPUs it was seen on; empty for any.
        precisions: of the graph; empty for any.
        sampler: the lowering of sampling that avoids it, where it is about sampling.
    """

    thread: str
    pattern: Pattern
    since: str
    until: str | None
    what: str
    advice: str
    kind: EngineKind = "trt"
    compute_capabilities: tuple[int, ...] = ()
    precisions: tuple[Precision, ...] = ()
    sampler: Sampler | None = None

    def concerns(self, target: Target) -> bool:
        """Whether the target's release, GPU and precision are those of the report; what is not known is not judged."""
        if target.kind != self.kind or (self.precisions and target.precision not in self.precisions):
            return False
        if target.version is not None:
            version = version_tuple(target.version)
            if version < version_tuple(self.since) or (self.until and version >= version_tuple(self.until)):
                return False
        known = set(target.compute_capabilities)
        return not (self.compute_capabilities and known) or bool(known & set(self.compute_capabilities))

    @property
    def line(self) -> str:
        """For a warning."""
        return f"{self.what} ({self.thread}); {self.advice}"
