"""brixel-export: weights in, model directory out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.commands.export_from_request import FromRequest, from_arguments
from brixel_edge.commands.export_request import (
    DEFAULT_CALIB_N,
    DEFAULT_VIEW_PX,
    PROGRAM,
    ExportRequest,
    check_engines,
    fill_in_board,
    request_from_arguments,
    say,
)
from brixel_edge.errors import BackendMissing
from brixel_edge.model.backbones import BACKBONES
from brixel_edge.model.boards import BOARDS
from brixel_edge.model.engine_choice import ENGINE_NAMES
from brixel_edge.model.receipt import Receipt
from brixel_edge.model.spec import UNTRAINED_NOTICE, AdapterKind, ChannelOrder, SamplerKind

DEFAULT_MIN_SPEEDUP = 1.1

EPILOG = """\
examples:
  brixel-export
      the built-in model, to default.brixel
  brixel-export --backbone vit_small_patch16_dinov3 --backbone-weights dinov3_vits16.pth \\
      --adapter-weights adapter.safetensors --size 256x448 --out vits16.brixel
  brixel-export --backbone dinov3 --backbone-weights dinov3_vits16.pth --adapter none --out baseline.brixel
      the backbone's own coarse map, to compare with
  brixel-export --sizes 256x256,320x448 --engine onnx-fp16 --out vits16.brixel
      two model directories, vits16-256x256.brixel and vits16-320x448.brixel
  brixel-export --adapter-weights built-in-view --size 256x352 --out view.brixel
      the built-in model without the frame at four times the backbone's view
  brixel-export --backbone dinov3 --backbone-weights dinov3_vits16.pth --adapter-weights adapter.safetensors \\
      --head probe.safetensors --out street.brixel
      a trained probe in the graph, which then gives masks: brixel-run street.brixel
  brixel-export --backbone dinov3 --backbone-weights dinov3_vits16.pth --adapter-weights adapter.safetensors \\
      --engine onnx-int8 --calib photographs/ --out int8.brixel
  brixel-export --for jetson-orin-nano --out nano.brixel
      all graphs that the board may need; copy the directory, and on the board, where no torch is:
  brixel-export --from nano.brixel --for jetson-orin-nano
      adds the engine, built there and proven there by the proof that travels; so does --engine trt-fp16

exit codes:
  0 done, 2 bad input, 3 backend not installed, 4 build failed, 5 parity failed, 6 out of memory;
  after 4 and 5 the directory holds failed.json, with everything that was tried
"""


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
        "--from",
        dest="source",
        metavar="DIR",
        type=Path,
        help="model directory to add engines to, in place; needs no torch",
    )
    parser.add_argument(
        "--backbone", metavar="NAME", help=f"dinov3 (architecture from the weights) or one of {', '.join(BACKBONES)}"
    )
    parser.add_argument(
        "--backbone-weights",
        metavar="FILE",
        help=".pth or .safetensors in Meta's, transformers' or timm's names; pretrained (timm's hub); built-in; random",
    )
    parser.add_argument(
        "--adapter",
        choices=get_args(AdapterKind),
        help="default brixel, of the built-in model conv; none: the backbone's own map",
    )
    parser.add_argument(
        "--adapter-weights",
        metavar="FILE",
        help="adapter.safetensors, the authors' .pth, official (theirs, fetched), built-in or built-in-view (of the "
        "built-in backbone, for the full frame or the view), or random",
    )
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
    parser.add_argument(
        "--head",
        metavar="FILE",
        type=Path,
        help="linear probe, components or prototypes of brixel-eval --save-head: the graph gives its answer instead of "
        "the features",
    )
    parser.add_argument("--keep-features", action="store_true", help="of --head: the graph gives the features too")
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
    parser.add_argument(
        "--channels", choices=get_args(ChannelOrder), default="BGR", help="order of the input's last axis"
    )
    parser.add_argument(
        "--sampler",
        choices=("auto", *get_args(SamplerKind)),
        help="lowering of deformable sampling; auto takes the target's, and another where that one fails; "
        "gather has no GridSample node, materialised gives the samples as outputs too",
    )
    parser.add_argument(
        "--engine",
        metavar="NAME,...",
        help=f"what to make, one or several of {', '.join(ENGINE_NAMES)} (default onnx: fp32 graph)",
    )
    parser.add_argument(
        "--for",
        dest="board",
        choices=BOARDS,
        help="what this board takes: stands for --engine, --sampler, --features and limits of memory, which it prints",
    )
    parser.add_argument(
        "--features",
        choices=("fp32", "fp16"),
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
        "--calib-cache", metavar="DIR", type=Path, help="keep calibrations there; the same frames are then run once"
    )
    parser.add_argument(
        "--min-speedup",
        metavar="X",
        type=float,
        default=DEFAULT_MIN_SPEEDUP,
        help=f"refuse int8 that is not X times faster than the best float engine here (default {DEFAULT_MIN_SPEEDUP})",
    )
    parser.add_argument(
        "--split",
        action="store_true",
        help="write every graph also as backbone and adapter, for brixel-run --backbone-every N",
    )
    parser.add_argument("--no-bench", action="store_true", help="leave latency and memory out of the receipt")


def _add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TensorRT")
    group.add_argument("--opt-level", metavar="N", type=int, help="0 builds fast, 5 slowly (default 3)")
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


def summary(receipt: Receipt, out: Path) -> str:
    """The receipt for people."""
    spec = receipt.spec
    lines = [
        f"wrote {out}",
        f"  {spec.image.height}x{spec.image.width} {spec.image.channels} uint8 -> {spec.outputs_line}",
    ]
    if not spec.trained:
        lines.append(f"  {UNTRAINED_NOTICE}")
    for requested in (receipt.requested, *(receipt.also_requested or ())):
        if not requested.is_first_choice:
            tried = [attempt for attempt in receipt.attempts if attempt.engine in (None, requested.engine)]
            failed, made = sum(not attempt.passed for attempt in tried), requested.made
            lines.append(
                f"  {requested.engine}: not the first choice, {made.precision} by {made.sampler}, after {failed} plans "
                "that failed (attempts in model.json)"
            )
    for name, parity in receipt.parity.items():
        size = receipt.files[name].bytes / 1e6
        lines.append(f"  {name}  {size:.1f} MB  {parity.line} ({parity.images} photographs, {parity.backend})")
    for name, engine in receipt.engines.items():
        if not engine.proven:
            size = receipt.files[name].bytes / 1e6
            lines.append(
                f"  {name}  {size:.1f} MB  NOT PROVEN: this machine cannot run it; the graph that it was built from is "
                f"proven, and brixel-verify {out} --engine {engine.report.identity.choice} proves it on the device"
            )
    return "\n".join(lines)


def _load_export() -> Callable[[ExportRequest], Iterator[tuple[Path, Receipt]]]:
    """The steps, with torch behind them.

    Raises:
        BackendMissing: torch, timm or another package of the extra `export` is not there.
    """
    try:
        from brixel_edge.commands.export_steps import export
    except ImportError as error:
        raise BackendMissing(
            f"{PROGRAM} needs {error.name}: pip install 'brixel-edge[export]' on the build machine"
        ) from error
    return export


def _added(request: FromRequest) -> tuple[dict[str, Any], str]:
    """Add engines to a directory."""
    from brixel_edge.commands.export_from import add_engines
    from brixel_edge.machine.device_process import device_of_process

    check_engines(request.engines, request.settings, ask_device=device_of_process)
    receipt = add_engines(request, say)
    return {"out": str(request.root), **receipt.to_json()}, summary(receipt, request.root)


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-export."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        fill_in_board(arguments, on_board=arguments.source is not None)
        if arguments.source is not None:
            return _added(from_arguments(arguments))
        request = request_from_arguments(arguments)
        check_engines(request.engines, request.settings, has_calib=request.calib is not None)
        export = _load_export()
        receipts = [({"out": str(out), **receipt.to_json()}, summary(receipt, out)) for out, receipt in export(request)]
        texts = "\n".join(text for _, text in receipts)
        if arguments.sizes:
            return {"models": [record for record, _ in receipts]}, texts
        return receipts[0][0], texts

    return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
