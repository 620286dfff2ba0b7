"""What a user may ask of the TensorRT builder, checked before anything is started.

Precision is not here: it lives in the graph. The record travels to the building process as JSON.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from brixel_edge.errors import SpecError
from brixel_edge.machine.cuda import JETSON_CAPABILITIES
from brixel_edge.machine.memory import MIB
from brixel_edge.machine.tensorrt import EngineKind
from brixel_edge.model.engine_file import HardwareCompatibility
from brixel_edge.model.spec import Precision

TypingChoice = Literal["auto", "strong", "weak"]

# The desktop cards that TensorRT-RTX 1.7 can build for; SM 7.5 only for graphs without fp32 products.
RTX_CAPABILITIES = (75, 80, 86, 89, 120, 121)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of a build.

    Attributes:
        optimization_level: 0 (fast build) to 5 (slow build); TensorRT's own default is 3.
        workspace_bytes: scratch memory a layer may use; None takes half of what the device has free.
        max_memory_bytes: weights, activations and buffers of the engine may not need more; None is no limit.
        timing_cache_dir: folder of timing caches; None is the folder of the engine.
        hardware_compatibility: let other GPUs run the plan (slower): `ampere+`, `same-cc`.
        is_version_compatible: let later TensorRT releases run the plan (slower).
        dla_core: build for this DLA core, the GPU taking what it cannot; None is the GPU alone.
        typing: strong takes the graph's types as they are, weak (TensorRT 10 and older) gives flags and pins.
        has_tf32: let fp32 products run in TF32, which has 10 bits of mantissa; off, or fp32 would not be fp32.
        rtx_capabilities: cards that a TensorRT-RTX engine is built for.
    """

    optimization_level: int = 3
    workspace_bytes: int | None = None
    max_memory_bytes: int | None = None
    timing_cache_dir: Path | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    is_version_compatible: bool = False
    dla_core: int | None = None
    typing: TypingChoice = "auto"
    has_tf32: bool = False
    rtx_capabilities: tuple[int, ...] = (86, 89, 120)

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise SpecError(f"optimisation level {self.optimization_level} is not in 0 to 5; TensorRT's default is 3")
        for name, value in (("workspace", self.workspace_bytes), ("max-mem", self.max_memory_bytes)):
            if value is not None and value < MIB:
                raise SpecError(f"{name} of {value} bytes is under 1 MiB; give for instance 512MiB")
        if self.hardware_compatibility not in get_args(HardwareCompatibility):
            allowed = ", ".join(get_args(HardwareCompatibility))
            raise SpecError(f"hardware compatibility {self.hardware_compatibility!r} is not one of {allowed}")
        if self.typing not in get_args(TypingChoice):
            raise SpecError(f"typing {self.typing!r} is not one of {', '.join(get_args(TypingChoice))}")
        if self.dla_core is not None and self.dla_core < 0:
            raise SpecError(f"DLA core {self.dla_core} is negative; the first is 0")
        if not self.rtx_capabilities or set(self.rtx_capabilities) - set(RTX_CAPABILITIES):
            raise SpecError(
                f"compute capabilities {self.rtx_capabilities} are not among those of TensorRT-RTX: "
                f"{', '.join(map(str, RTX_CAPABILITIES))}; Jetson and data-centre cards take --engine trt-fp16"
            )

    def check(self, kind: EngineKind, capability: int | None) -> None:
        """Refuse at once what the builder would refuse for every graph.

        Args:
            kind: of TensorRT.
            capability: of the GPU, 87 for SM 8.7; None where it is built for others.

        Raises:
            SpecError: a setting that this kind or this GPU does not take.
        """
        if kind == "trt-rtx":
            for flag, is_set in (
                ("--version-compatible", self.is_version_compatible),
                ("--hardware-compatibility", self.hardware_compatibility != "none"),
                ("--dla", self.dla_core is not None),
            ):
                if is_set:
                    raise SpecError(
                        f"{flag} is not for TensorRT-RTX, whose engines run on that release and on all cards of "
                        "--rtx-sm; leave it out"
                    )
        if self.hardware_compatibility != "none" and capability in JETSON_CAPABILITIES:
            raise SpecError(
                f"--hardware-compatibility {self.hardware_compatibility} is not for Jetson (SM {capability}): TensorRT "
                "has it for discrete GPUs alone; leave it out and build on each board"
            )

    def to_json(self) -> dict[str, Any]:
        """These settings as plain JSON values."""
        folder = self.timing_cache_dir
        return {**dataclasses.asdict(self), "timing_cache_dir": None if folder is None else str(folder)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> EngineSettings:
        """Read what `to_json` wrote."""
        folder = record["timing_cache_dir"]
        fields = {**record, "timing_cache_dir": None if folder is None else Path(folder)}
        return cls(**{**fields, "rtx_capabilities": tuple(record["rtx_capabilities"])})


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What the exporter asks of the building process.

    Attributes:
        graph: ONNX file.
        plan: temporary file for the plan.
        kind: TensorRT or TensorRT-RTX.
        precision: which the graph must have.
        settings: of the build.
    """

    graph: Path
    plan: Path
    kind: EngineKind
    precision: Precision
    settings: EngineSettings

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = {"graph": str(self.graph), "plan": str(self.plan), "kind": self.kind, "precision": self.precision}
        return {**plain, "settings": self.settings.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> BuildRequest:
        """Read what `to_json` wrote."""
        return cls(
            graph=Path(record["graph"]),
            plan=Path(record["plan"]),
            kind=record["kind"],
            precision=record["precision"],
            settings=EngineSettings.from_json(record["settings"]),
        )
