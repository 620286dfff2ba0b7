"""What brixel-export --from is asked for: the command line read and checked, without reading the directory."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.commands.export_request import DEFAULT_CALIB_N, check_engine_flags, engine_settings
from brixel_edge.errors import SpecError
from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.model.engine_choice import EngineChoice, engine_choices


@dataclass(frozen=True, kw_only=True)
class FromRequest:
    """What the command line asks of `--from`.

    Attributes:
        root: the model directory, whose engines are added to it.
        engines: what to make, in this order.
        settings: of the engine builder.
        has_half_features: the features of an fp16 graph that is made here are fp16, too.
        calib: source of the photographs that INT8 is calibrated on, and ranges are measured on; None takes for ranges
            those that travel with the proof.
        calib_n: frames of it.
        min_speedup: what INT8 must gain over the fastest float engine.
        seed: of the choice of frames.
    """

    root: Path
    engines: tuple[EngineChoice, ...]
    settings: EngineSettings
    has_half_features: bool = False
    calib: str | None = None
    calib_n: int = DEFAULT_CALIB_N
    min_speedup: float = 0
    seed: int = 0


# What the exported graph is made of was decided at its export.
_NOT_WITH_FROM = (
    "backbone", "backbone_weights", "adapter_weights", "conv_width", "full_frame", "tap_layers", "size", "sizes", "out",
    "sampler", "parity_images", "calib_cache", "head", "keep_features",
)  # fmt: skip


def from_arguments(arguments: argparse.Namespace) -> FromRequest:
    """Check what can be checked of `--from` without reading the directory.

    Raises:
        SpecError: no engine, or flags that belong to an export from weights.
    """
    given = [name for name in _NOT_WITH_FROM if getattr(arguments, name)]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise SpecError(f"{flag} was decided when {arguments.source} was exported; leave it out of --from")
    if arguments.engine is None:
        raise SpecError(f"--from {arguments.source} needs --engine, for instance trt-fp16, or --for a board")
    engines = engine_choices(arguments.engine)
    check_engine_flags(arguments, engines)
    return FromRequest(
        root=arguments.source,
        engines=engines,
        settings=engine_settings(arguments),
        has_half_features=arguments.features == "fp16",
        calib=arguments.calib,
        calib_n=arguments.calib_n,
        min_speedup=arguments.min_speedup,
        seed=arguments.seed,
    )
