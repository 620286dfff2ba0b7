"""The generations of TensorRT's Python API, told apart by what the module has and not by its version.

8.6: explicit batch by flag, types are hints; fp16 and int8 are builder flags, layers are pinned to fp32 one by one.
10.x: the same, and a network flag that makes the graph's types binding. 11.x and TensorRT-RTX: types always bind, the
flags are gone. Knows nothing of files or processes; the module is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from brixel_edge.errors import BuildError, SpecError
from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.model.engine_file import Typing
from brixel_edge.model.graph_facts import GraphFacts
from brixel_edge.model.spec import Precision

_FLAG_OF = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
_LEVEL_OF = {"ampere+": "AMPERE_PLUS", "same-cc": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A TensorRT module and what it can do.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`.
        version: of it.
        has_strong_typing: the graph's types can bind.
        has_weak_typing: precision flags exist.
        has_progress_monitor: the builder can report its phases.
        is_ahead_of_time: it builds for named cards, without a GPU (TensorRT-RTX).
    """

    module: Any
    version: str
    has_strong_typing: bool
    has_weak_typing: bool
    has_progress_monitor: bool
    is_ahead_of_time: bool

    @property
    def label(self) -> str:
        """Its name and release, for messages."""
        return f"TensorRT-RTX {self.version}" if self.is_ahead_of_time else f"TensorRT {self.version}"


def dialect_of(module: Any) -> Dialect:
    """Ask a module what it can do."""
    return Dialect(
        module=module,
        version=str(module.__version__),
        has_strong_typing=hasattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
        has_weak_typing=hasattr(module.BuilderFlag, "FP16"),
        has_progress_monitor=hasattr(module, "IProgressMonitor"),
        is_ahead_of_time=hasattr(module, "ComputeCapability"),
    )


def typings_to_try(dialect: Dialect, settings: EngineSettings) -> tuple[Typing, ...]:
    """The typings that this release has, in the order to try them.

    Raises:
        BuildError: the one asked for is not among them.
    """
    typings = typings_of(dialect)
    if settings.typing == "auto":
        return typings
    if settings.typing not in typings:
        raise BuildError(f"{dialect.label} has no {settings.typing} typing; it has {' and '.join(typings)}")
    return (settings.typing,)


def typings_of(dialect: Dialect) -> tuple[Typing, ...]:
    """The typings that a release has, the one whose types bind first."""
    strong: tuple[Typing, ...] = ("strong",) if dialect.has_strong_typing else ()
    weak: tuple[Typing, ...] = ("weak",) if dialect.has_weak_typing else ()
    return strong + weak


def network_flags(dialect: Dialect, typing: Typing) -> int:
    """The bits for create_network: 0 where types always bind, as 11.x has no other kind of network."""
    if not dialect.has_weak_typing:
        return 0
    flags = dialect.module.NetworkDefinitionCreationFlag
    wanted = ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if typing == "strong" else [])]
    return sum(1 << int(getattr(flags, name)) for name in wanted if hasattr(flags, name))


def set_precision_flags(dialect: Dialect, config: Any, precision: Precision, facts: GraphFacts) -> None:
    """Under weak typing, allow the types that the graph computes in, and make the pins binding.

    Raises:
        BuildError: this release has no such precision.
    """
    flags = dialect.module.BuilderFlag
    wanted = {precision} | {kind for kind in ("fp16", "bf16") if facts.arithmetic_types.get(kind)}
    for kind in sorted(wanted - {"fp32"}):
        if not hasattr(flags, _FLAG_OF[kind]):
            raise BuildError(f"{dialect.label} cannot build {kind}; use --engine trt-fp16")
        config.set_flag(getattr(flags, _FLAG_OF[kind]))
    if wanted != {"fp32"}:
        config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)


def apply_settings(dialect: Dialect, builder: Any, config: Any, settings: EngineSettings) -> None:
    """Give the builder's configuration what the settings ask.

    Raises:
        SpecError: this release or this board lacks something asked for; no other graph would change that.
    """
    module = dialect.module
    config.builder_optimization_level = settings.optimization_level
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    (config.set_flag if settings.has_tf32 else config.clear_flag)(module.BuilderFlag.TF32)
    if settings.is_version_compatible:
        if dialect.is_ahead_of_time:
            raise SpecError(f"a {dialect.label} engine runs on that release only; leave out --version-compatible")
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatibility != "none":
        _set_hardware_compatibility(dialect, config, settings)
    if settings.dla_core is not None:
        _set_dla(dialect, builder, config, settings.dla_core)
    if dialect.is_ahead_of_time:
        _set_capabilities(dialect, config, settings)


def _set_hardware_compatibility(dialect: Dialect, config: Any, settings: EngineSettings) -> None:
    levels = dialect.module.HardwareCompatibilityLevel
    name = _LEVEL_OF[settings.hardware_compatibility]
    if dialect.is_ahead_of_time:
        raise SpecError("a TensorRT-RTX engine runs on all cards it is built for; leave out --hardware-compatibility")
    if not hasattr(levels, name):
        known = [choice for choice, level in _LEVEL_OF.items() if hasattr(levels, level)]
        raise SpecError(
            f"{dialect.label} has no hardware compatibility {settings.hardware_compatibility!r}; "
            f"it has {', '.join(known)}"
        )
    config.hardware_compatibility_level = getattr(levels, name)


def _set_dla(dialect: Dialect, builder: Any, config: Any, core: int) -> None:
    cores = int(builder.num_DLA_cores)
    if core >= cores:
        board = f"{cores} DLA core{'s' if cores != 1 else ''}" if cores else "no DLA (an Orin Nano has none)"
        raise SpecError(f"DLA core {core} was asked for and this board has {board}; leave out --dla")
    config.default_device_type = dialect.module.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(dialect.module.BuilderFlag.GPU_FALLBACK)


def _set_capabilities(dialect: Dialect, config: Any, settings: EngineSettings) -> None:
    capabilities = dialect.module.ComputeCapability
    missing = [number for number in settings.rtx_capabilities if not hasattr(capabilities, f"SM{number}")]
    if missing:
        raise SpecError(f"{dialect.label} cannot build for SM {missing[0]}; leave it out of --rtx-sm")
    config.num_compute_capabilities = len(settings.rtx_capabilities)
    for index, number in enumerate(settings.rtx_capabilities):
        config.set_compute_capability(getattr(capabilities, f"SM{number}"), index)
