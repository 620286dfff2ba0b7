"""What brixel-export is asked for: the command line read and checked, without loading torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from brixel_edge.commands.export_built_in import fill_in_built_in
from brixel_edge.commands.numbers import parse_layers, parse_numbers
from brixel_edge.errors import BackendMissing, SpecError
from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.export.engine.target import BuildTarget
from brixel_edge.machine.cuda import CudaDevice, current_device, import_cudart
from brixel_edge.machine.memory import parse_bytes
from brixel_edge.machine.tensorrt import INSTALL_HINTS, EngineKind, has_tensorrt
from brixel_edge.model.adapters import DEFAULT_WIDTH, FULL_FRAME_SCALE, ConvSettings, check_multiple, size_step_px
from brixel_edge.model.backbones import BUILT_IN, BUILT_IN_VIEW, backbone_spec
from brixel_edge.model.boards import BOARDS
from brixel_edge.model.engine_choice import EngineChoice, engine_choices, tensorrt_of
from brixel_edge.model.spec import AdapterKind, ChannelOrder, SamplerKind, parse_size

PROGRAM = "brixel-export"
RANDOM = "random"
DINOV3 = "dinov3"  # the weights say which
DEFAULT_VIEW_PX = 256
DEFAULT_CALIB_N = 96
DEFAULT_ENGINE = "onnx"


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What the command line asks for.

    Attributes:
        conv: settings of a conv adapter with random weights; None for its defaults, or for those of its file.
        tap_layers: None for the table's.
        sizes: (height, width) [px] of each model directory; empty for the default, which depends on the adapter.
        outs: the directories, one a size.
        engines: what to make, in this order.
        sampler: lowering of deformable sampling; None for those of the engine in their order.
        has_half_features: the features of an fp16 graph are fp16, too.
        parity_images: folder of the proof's photographs; None for scikit-image's.
        calib: calibration source: folder, video or camera; None for none.
        calib_n: frames of it.
        calib_cache: folder of earlier calibrations; None for none.
        min_speedup: what INT8 must gain over the fastest float engine.
        has_bench: measure latency and memory for the receipt.
        has_halves: every graph also as two, backbone and adapter.
        settings: of the engine builder.
        seed: of random weights and of the choice of calibration frames.
        target: what TensorRT of the board it is exported for; None for this machine's.
        head: file of a head that is added to the graph; None for none.
        keeps_features: the graph gives the features beside the head's answer.
    """

    backbone: str
    backbone_weights: str
    adapter: AdapterKind
    adapter_weights: str
    conv: ConvSettings | None
    tap_layers: tuple[int, ...] | None
    sizes: tuple[tuple[int, int], ...]
    outs: tuple[Path, ...]
    channels: ChannelOrder
    sampler: SamplerKind | None
    engines: tuple[EngineChoice, ...]
    has_half_features: bool
    parity_images: Path | None
    calib: str | None
    calib_n: int
    calib_cache: Path | None
    min_speedup: float
    has_bench: bool
    settings: EngineSettings
    seed: int
    target: BuildTarget | None = None
    has_halves: bool = False
    head: Path | None = None
    keeps_features: bool = False

    @property
    def tensorrt(self) -> EngineKind | None:
        """Which TensorRT builds engines of it; None for graphs only."""
        return tensorrt_of(self.engines)


def _board_target(name: str | None) -> BuildTarget | None:
    board = None if name is None else BOARDS[name]
    if board is None or board.tensorrt is None or board.compute_capability is None:
        return None
    return BuildTarget(version=board.tensorrt, compute_capabilities=(board.compute_capability,))


def fill_in_board(arguments: argparse.Namespace, *, on_board: bool) -> None:
    """Put in what `--for` stands for, and say so; what was given stays."""
    if arguments.board is None:
        return
    board = BOARDS[arguments.board]
    options = board.board_options if on_board else board.workstation_options
    if _gives_answers_alone(arguments):
        options = {name: value for name, value in options.items() if name != "features"}
    taken = {name: value for name, value in options.items() if getattr(arguments, name) is None}
    for name, value in taken.items():
        setattr(arguments, name, value)
    shown = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in taken.items())
    say(f"{board.name} ({board.system}) stands for {shown}")
    if not on_board and board.engines != board.graphs:
        say(f"on the board: brixel-export --from DIR --for {board.name}")


def _gives_answers_alone(arguments: argparse.Namespace) -> bool:
    return arguments.head is not None and not arguments.keep_features


def request_from_arguments(arguments: argparse.Namespace) -> ExportRequest:
    """Check what can be checked without loading anything.

    Raises:
        SpecError: flags that do not fit each other, or a size that does not fit the backbone.
    """
    default = arguments.backbone is None
    fill_in_built_in(arguments)
    if arguments.backbone_weights is None:
        raise SpecError(f"--backbone {arguments.backbone} needs --backbone-weights FILE (or pretrained, or random)")
    if arguments.adapter == "none" and arguments.adapter_weights:
        raise SpecError("--adapter none has no weights; leave --adapter-weights or --adapter none out")
    if arguments.adapter != "none" and arguments.adapter_weights is None:
        raise SpecError("--adapter-weights FILE is missing (or random; or --adapter none for the backbone's own map)")
    if arguments.adapter == "none" and arguments.split:
        raise SpecError("--split cuts a graph at its adapter, which reads every frame; --adapter none has none")
    engines = engine_choices(arguments.engine or DEFAULT_ENGINE)
    check_engine_flags(arguments, engines)
    out = arguments.out or Path("default.brixel" if default else f"{arguments.backbone}.brixel")
    given = arguments.sizes or arguments.size
    sizes = tuple(dict.fromkeys(parse_size(text) for text in given.split(","))) if given else ()
    request = ExportRequest(
        backbone=arguments.backbone,
        backbone_weights=arguments.backbone_weights,
        adapter=arguments.adapter,
        adapter_weights=arguments.adapter_weights or RANDOM,
        conv=_conv_settings(arguments),
        tap_layers=parse_layers(arguments.tap_layers),
        sizes=sizes,
        outs=tuple(_sized(out, size) for size in sizes) if arguments.sizes else (out,),
        channels=arguments.channels,
        sampler=arguments.sampler if arguments.sampler in get_args(SamplerKind) else None,
        engines=engines,
        has_half_features=arguments.features == "fp16",
        parity_images=arguments.parity_images,
        calib=arguments.calib,
        calib_n=arguments.calib_n,
        calib_cache=arguments.calib_cache,
        min_speedup=arguments.min_speedup,
        has_bench=not arguments.no_bench,
        has_halves=arguments.split,
        settings=engine_settings(arguments),
        seed=arguments.seed,
        target=_board_target(arguments.board),
        head=arguments.head,
        keeps_features=arguments.keep_features,
    )
    _check_sizes(request)
    return request


def check_engines(
    engines: Sequence[EngineChoice],
    settings: EngineSettings,
    *,
    has_calib: bool = True,
    ask_device: Callable[[], CudaDevice] = lambda: current_device(import_cudart()),
) -> None:
    """Whether this machine can make the engines with these settings, before anything slow is done.

    Raises:
        BackendMissing: the message says what to install where.
        SpecError: a setting that the builder would refuse, or INT8 for TensorRT without calibration frames.
    """
    kind = tensorrt_of(engines)
    if kind is None:
        return
    engine = next(choice for choice in engines if choice.tensorrt)
    if not has_tensorrt(kind):
        name = "TensorRT-RTX" if kind == "trt-rtx" else "TensorRT"
        raise BackendMissing(f"--engine {engine} needs {name}: {INSTALL_HINTS[kind]}")
    device = ask_device() if kind == "trt" else None
    settings.check(kind, device.compute_capability if device else None)
    if not has_calib and any(choice.precision == "int8" for choice in engines):
        raise SpecError(
            f"--engine {engine} needs --calib SRC, frames of what the device will see (folder, video or camera)"
        )


def check_engine_flags(arguments: argparse.Namespace, engines: Sequence[EngineChoice]) -> None:
    """Refuse flags that none of the engines takes.

    Raises:
        SpecError: one of these.
    """
    named, precisions = ",".join(map(str, engines)), {engine.precision for engine in engines}
    if arguments.keep_features and arguments.head is None:
        raise SpecError("--keep-features is for --head FILE; without a head the features are what the graph gives")
    if arguments.features is not None and _gives_answers_alone(arguments):
        raise SpecError(
            f"--features {arguments.features} is of features, which a graph with --head does not give; add "
            "--keep-features, or leave it out"
        )
    if arguments.features == "fp16" and "fp16" not in precisions:
        raise SpecError(f"--features fp16 needs an fp16 graph, --engine {named} makes none; use onnx-fp16")
    if arguments.calib is not None and precisions == {"fp32"}:
        raise SpecError(f"--engine {named} calibrates nothing; leave --calib out, or use onnx-int8")
    if arguments.calib_cache is not None and (arguments.calib is None or "int8" not in precisions):
        raise SpecError(
            "--calib-cache keeps calibrations of INT8; give --engine onnx-int8 and --calib SRC, or leave it out"
        )
    if arguments.calib_n < 1 or arguments.min_speedup < 0:
        raise SpecError(f"--calib-n {arguments.calib_n} and --min-speedup {arguments.min_speedup} must be above zero")


def _check_sizes(request: ExportRequest) -> None:
    """Refuse what the table of backbones rules out; a conv adapter's file alone says whether it reads a full frame.

    Raises:
        SpecError: no such backbone, or a size that does not fit its patch.
    """
    patch_px = backbone_spec("vit_small_patch16_dinov3" if request.backbone == DINOV3 else request.backbone).patch_px
    if request.adapter == "conv" and request.adapter_weights not in (RANDOM, BUILT_IN, BUILT_IN_VIEW):
        return
    reads_frame = request.adapter_weights == BUILT_IN or (request.conv is not None and request.conv.full_frame)
    scale = FULL_FRAME_SCALE if reads_frame else 1
    for size in request.sizes:
        check_multiple(*size, size_step_px(request.adapter, patch_px, scale))


def _conv_settings(arguments: argparse.Namespace) -> ConvSettings | None:
    """What is said of a conv adapter whose weights say nothing.

    Raises:
        SpecError: for another adapter, or for weights from a file, which say their own.
    """
    if arguments.conv_width is None and not arguments.full_frame:
        return None
    if arguments.adapter != "conv":
        raise SpecError(f"--conv-width and --full-frame are for --adapter conv, not for --adapter {arguments.adapter}")
    if arguments.adapter_weights not in (None, RANDOM):
        raise SpecError(
            f"--adapter-weights {arguments.adapter_weights} says the width and the input of its adapter itself; leave "
            "--conv-width and --full-frame out (they are for random weights)"
        )
    width = DEFAULT_WIDTH if arguments.conv_width is None else arguments.conv_width
    return ConvSettings(width=width, full_frame=arguments.full_frame)


def _sized(out: Path, size: tuple[int, int]) -> Path:
    """vits16.brixel and (256, 320) -> vits16-256x320.brixel."""
    return out.with_name(f"{out.name.removesuffix('.brixel')}-{size[0]}x{size[1]}.brixel")


def engine_settings(arguments: argparse.Namespace) -> EngineSettings:
    """Of the builder, from the command line."""
    cards = parse_numbers(arguments.rtx_sm, "--rtx-sm", "compute capabilities; for instance 86,89,120")
    return EngineSettings(
        optimization_level=EngineSettings().optimization_level if arguments.opt_level is None else arguments.opt_level,
        workspace_bytes=parse_bytes(arguments.workspace) if arguments.workspace else None,
        max_memory_bytes=parse_bytes(arguments.max_mem) if arguments.max_mem else None,
        timing_cache_dir=arguments.timing_cache,
        hardware_compatibility=arguments.hardware_compatibility,
        is_version_compatible=arguments.version_compatible,
        dla_core=arguments.dla,
        rtx_capabilities=cards or (),
    )


def say(line: str) -> None:
    """A line of progress."""
    print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)
