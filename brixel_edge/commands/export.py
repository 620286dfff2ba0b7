"""brixel-export: weights in, model directory out."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.errors import SpecError
from brixel_edge.machine.memory import parse_bytes
from brixel_edge.model.backbones import BACKBONES, DEFAULT_BACKBONE
from brixel_edge.model.spec import UNTRAINED_NOTICE, parse_size

if TYPE_CHECKING:
    from brixel_edge.export.engine.settings import EngineSettings
    from brixel_edge.model.receipt import Receipt
    from brixel_edge.network.conv_adapter import ConvSettings

PROGRAM = "brixel-export"
ENGINES = ("onnx", "onnx-fp16", "onnx-bf16", "onnx-int8", "trt-fp32", "trt-fp16", "trt-bf16", "trt-int8", "trt-rtx")
SAMPLERS = ("auto", "gridsample", "gather", "materialised")
DEFAULT_VIEW_PX = 256
DEFAULT_CALIB_N = 64
DEFAULT_MIN_SPEEDUP = 1.1
RANDOM = "random"

EPILOG = """\
examples:
  brixel-export
      the built-in default model, to default.brixel
  brixel-export --backbone vit_small_patch16_dinov3 --backbone-weights dinov3_vits16.pth \\
      --adapter-weights adapter.safetensors --size 256x448 --out vits16.brixel
  brixel-export --backbone dinov3 --backbone-weights dinov3_vits16.pth --adapter none --out baseline.brixel
      the backbone's own coarse map, to compare with
  brixel-export --sizes 256x256,320x448 --engine onnx-fp16 --out vits16.brixel
      two model directories, vits16-256x256.brixel and vits16-320x448.brixel
  brixel-export --adapter conv --full-frame --size 1024x1024 --out frame.brixel
      the small adapter, which also reads the frame at four times the backbone's view
  brixel-export --engine onnx-int8 --calib photographs/
  brixel-export --engine trt-fp16
      on the board itself

exit codes:
  0 done, 2 bad input, 3 backend not installed, 4 build failed, 5 parity failed, 6 out of memory;
  after 4 and 5 the directory holds failed.json, with everything that was tried
"""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What the command line asks for.

    Attributes:
        sizes: (height, width) [px] of each model directory; empty for the default, which depends on the adapter.
        outs: the directories, one a size.
        calib: calibration source: folder, video or camera; None for none.
        features: type of a half-precision graph's output.
        settings: of the engine builder.
        conv: settings of a conv adapter with random weights; None for its defaults, or for those of its file.
        min_speedup: what INT8 must gain over the fastest float engine.
        has_bench: measure latency and memory for the receipt.
    """

    backbone: str
    backbone_weights: str
    adapter: str
    adapter_weights: str
    conv: ConvSettings | None
    tap_layers: tuple[int, ...] | None
    sizes: tuple[tuple[int, int], ...]
    outs: tuple[Path, ...]
    channels: str
    sampler: str
    engine: str
    features: str
    parity_images: Path | None
    calib: str | None
    calib_n: int
    min_speedup: float
    has_bench: bool
    settings: EngineSettings
    seed: int


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Fuse pre-processing, backbone, adapter and head into one graph and prove it equal to PyTorch.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model_arguments(parser)
    _add_graph_arguments(parser)
    _add_engine_arguments(parser)
    add_common_arguments(parser)
    return parser


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backbone", metavar="NAME", help=f"dinov3 (architecture from the weights) or one of {', '.join(BACKBONES)}"
    )
    parser.add_argument(
        "--backbone-weights",
        metavar="FILE",
        help=".pth or .safetensors in Meta's, transformers' or timm's names; pretrained (timm's hub); random",
    )
    parser.add_argument(
        "--adapter", choices=("brixel", "conv", "none"), default="brixel", help="none: the backbone's own map"
    )
    parser.add_argument("--adapter-weights", metavar="FILE", help="adapter.safetensors, the authors' .pth, or random")
    parser.add_argument(
        "--conv-width", metavar="C", type=int, help="of --adapter conv with random weights: channels at 1/8 and 1/4"
    )
    parser.add_argument(
        "--full-frame",
        action="store_true",
        help="of --adapter conv with random weights: it reads the frame, --size, at four times the backbone's view",
    )
    parser.add_argument(
        "--tap-layers", metavar="I,J,...", help="blocks that the adapter reads, from 0; default: the table's"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random weights and of the choice of calibration frames")


def _add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--size",
        metavar="HxW",
        help=f"height x width of the graph's image in pixels (default {DEFAULT_VIEW_PX}x{DEFAULT_VIEW_PX}; four times "
        "that for a full frame)",
    )
    size.add_argument("--sizes", metavar="HxW,...", help="several sizes, each a model directory NAME-HxW.brixel")
    parser.add_argument("--channels", choices=("BGR", "RGB"), default="BGR", help="order of the input's last axis")
    parser.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default="auto",
        help="lowering of deformable sampling; auto takes the target's, and another where that one fails; "
        "gather has no GridSample node, materialised gives the samples as outputs too",
    )
    parser.add_argument("--engine", choices=ENGINES, default="onnx", help="what to make (default onnx: fp32 graph)")
    parser.add_argument(
        "--features",
        choices=("fp32", "fp16"),
        default="fp32",
        help="type of the features of an fp16 graph (default fp32); fp16 halves what a GPU copies back",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="model directory to write (default NAME.brixel)")
    parser.add_argument(
        "--parity-images", metavar="DIR", type=Path, help="photographs of the proof; default: scikit-image's"
    )
    parser.add_argument(
        "--calib",
        metavar="SRC",
        help="what the device will see: folder, video or camera (0); ranges of fp16 and scales of int8 come from it",
    )
    parser.add_argument(
        "--calib-n", metavar="N", type=int, default=DEFAULT_CALIB_N, help=f"frames of it (default {DEFAULT_CALIB_N})"
    )
    parser.add_argument(
        "--min-speedup",
        metavar="X",
        type=float,
        default=DEFAULT_MIN_SPEEDUP,
        help=f"refuse int8 that is not X times faster than the best float engine here (default {DEFAULT_MIN_SPEEDUP})",
    )
    parser.add_argument("--no-bench", action="store_true", help="leave latency and memory out of the receipt")


def _add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TensorRT")
    group.add_argument("--opt-level", metavar="N", type=int, default=3, help="0 builds fast, 5 slowly (default 3)")
    group.add_argument(
        "--workspace", metavar="SIZE", help="scratch memory of a layer, e.g. 512MiB (default: half of what is free)"
    )
    group.add_argument("--max-mem", metavar="SIZE", help="refuse an engine that needs more device memory, e.g. 2GiB")
    group.add_argument("--timing-cache", metavar="DIR", type=Path, help="folder of timing caches (default: --out's)")
    group.add_argument(
        "--hardware-compatibility",
        choices=("none", "ampere+", "same-cc"),
        default="none",
        help="let other GPUs run the engine, more slowly (default none)",
    )
    group.add_argument("--version-compatible", action="store_true", help="let later TensorRT releases run the engine")
    group.add_argument("--dla", metavar="CORE", type=int, help="build for a DLA core, on boards that have one")
    group.add_argument(
        "--rtx-sm", metavar="SM,...", default="86,89,120", help="trt-rtx: cards to build for (default 86,89,120)"
    )


def request_from_arguments(arguments: argparse.Namespace) -> ExportRequest:
    """Check what can be checked without loading anything.

    Raises:
        SpecError: flags that do not fit each other.
    """
    default = arguments.backbone is None
    if default and (arguments.backbone_weights or arguments.adapter_weights):
        raise SpecError("weights without a backbone: name it with --backbone NAME, or --backbone dinov3")
    if not default and arguments.backbone_weights is None:
        raise SpecError(f"--backbone {arguments.backbone} needs --backbone-weights FILE (or pretrained, or random)")
    if arguments.adapter == "none" and arguments.adapter_weights:
        raise SpecError("--adapter none has no weights; leave --adapter-weights or --adapter none out")
    if not default and arguments.adapter != "none" and arguments.adapter_weights is None:
        raise SpecError("--adapter-weights FILE is missing (or random; or --adapter none for the backbone's own map)")
    _check_engine_flags(arguments)
    out = arguments.out or Path("default.brixel" if default else f"{arguments.backbone}.brixel")
    given = arguments.sizes or arguments.size
    sizes = tuple(dict.fromkeys(parse_size(text) for text in given.split(","))) if given else ()
    return ExportRequest(
        backbone=DEFAULT_BACKBONE if default else arguments.backbone,
        backbone_weights=RANDOM if default else arguments.backbone_weights,
        adapter=arguments.adapter,
        adapter_weights=arguments.adapter_weights or RANDOM,
        conv=_conv_settings(arguments),
        tap_layers=_parse_layers(arguments.tap_layers),
        sizes=sizes,
        outs=tuple(_sized(out, size) for size in sizes) if arguments.sizes else (out,),
        channels=arguments.channels,
        sampler=arguments.sampler,
        engine=arguments.engine,
        features=arguments.features,
        parity_images=arguments.parity_images,
        calib=arguments.calib,
        calib_n=arguments.calib_n,
        min_speedup=arguments.min_speedup,
        has_bench=not arguments.no_bench,
        settings=_engine_settings(arguments),
        seed=arguments.seed,
    )


def _check_engine_flags(arguments: argparse.Namespace) -> None:
    precision = arguments.engine.removeprefix("onnx-").removeprefix("trt-")
    if arguments.features == "fp16" and precision not in ("fp16", "rtx"):
        raise SpecError(f"--features fp16 needs an fp16 graph, --engine {arguments.engine} makes none; use onnx-fp16")
    if arguments.calib is not None and precision not in ("fp16", "bf16", "int8", "rtx"):
        raise SpecError(f"--engine {arguments.engine} calibrates nothing; leave --calib out, or use onnx-int8")
    if arguments.calib_n < 1 or arguments.min_speedup < 0:
        raise SpecError(f"--calib-n {arguments.calib_n} and --min-speedup {arguments.min_speedup} must be above zero")


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
    from brixel_edge.network.conv_adapter import DEFAULT_WIDTH, ConvSettings

    width = DEFAULT_WIDTH if arguments.conv_width is None else arguments.conv_width
    return ConvSettings(width=width, full_frame=arguments.full_frame)


def _sized(out: Path, size: tuple[int, int]) -> Path:
    """vits16.brixel and (256, 320) -> vits16-256x320.brixel."""
    return out.with_name(f"{out.name.removesuffix('.brixel')}-{size[0]}x{size[1]}.brixel")


def _parse_layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise SpecError(f"--tap-layers {text!r} is not a list of block numbers; for instance 3,6,9,11")
    return tuple(int(part) for part in parts)


def _engine_settings(arguments: argparse.Namespace) -> EngineSettings:
    from brixel_edge.export.engine.settings import EngineSettings

    cards = arguments.rtx_sm.split(",")
    if not all(card.strip().isdigit() for card in cards):
        raise SpecError(f"--rtx-sm {arguments.rtx_sm!r} is not a list of compute capabilities; for instance 86,89,120")
    return EngineSettings(
        optimization_level=arguments.opt_level,
        workspace_bytes=parse_bytes(arguments.workspace) if arguments.workspace else None,
        max_memory_bytes=parse_bytes(arguments.max_mem) if arguments.max_mem else None,
        timing_cache_dir=arguments.timing_cache,
        hardware_compatibility=arguments.hardware_compatibility,
        is_version_compatible=arguments.version_compatible,
        dla_core=arguments.dla,
        rtx_capabilities=tuple(int(card) for card in cards),
    )


def summary(receipt: Receipt, out: Path) -> str:
    """The receipt for people."""
    spec, requested = receipt.spec, receipt.requested
    lines = [
        f"wrote {out}",
        f"  {spec.image.height}x{spec.image.width} {spec.image.channels} uint8 -> features "
        f"(1, {spec.dim}, {spec.grid[0]}, {spec.grid[1]})",
    ]
    if not spec.trained:
        lines.append(f"  {UNTRAINED_NOTICE}")
    if not requested.is_first_choice:
        failed = sum(not attempt.passed for attempt in receipt.attempts)
        made = requested.made
        lines.append(
            f"  not the first choice: {made.precision} by {made.sampler}, after {failed} plans that failed "
            "(attempts in model.json)"
        )
    for name, parity in receipt.parity.items():
        size = receipt.files[name].bytes / 1e6
        lines.append(f"  {name}  {size:.1f} MB  {parity.line} ({parity.images} photographs, {parity.backend})")
    for name, engine in receipt.engines.items():
        if not engine.proven:
            size = receipt.files[name].bytes / 1e6
            lines.append(
                f"  {name}  {size:.1f} MB  NOT PROVEN: this machine cannot run it; the graph that it was built from is "
                f"proven, and brixel-verify {out} --engine {requested.engine} proves it on the device"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-export."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        request = request_from_arguments(arguments)
        from brixel_edge.commands.export_run import export

        receipts = [({"out": str(out), **receipt.to_json()}, summary(receipt, out)) for out, receipt in export(request)]
        texts = "\n".join(text for _, text in receipts)
        if arguments.sizes:
            return {"models": [record for record, _ in receipts]}, texts
        return receipts[0][0], texts

    return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
