"""brixel-export: weights in, model directory out."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brixel_edge.backbone_specs import BACKBONES, DEFAULT_BACKBONE
from brixel_edge.command import add_common_arguments, run_command
from brixel_edge.errors import BackendMissing, SpecError
from brixel_edge.spec import UNTRAINED_NOTICE, parse_size

if TYPE_CHECKING:
    from brixel_edge.spec import ModelSpec

PROGRAM = "brixel-export"
DEFAULT_SIZE = (256, 256)
ENGINES = ("onnx", "onnx-fp16", "onnx-bf16", "onnx-int8", "trt-fp32", "trt-fp16", "trt-bf16", "trt-int8", "trt-rtx")
RANDOM = "random"

EPILOG = """\
examples:
  brixel-export
      the built-in default model, to default.brixel
  brixel-export --backbone vit_small_patch16_dinov3 --backbone-weights dinov3_vits16.pth \\
      --adapter-weights adapter.safetensors --size 256x448 --out vits16.brixel
  brixel-export --backbone dinov3 --backbone-weights dinov3_vits16.pth --adapter none --out baseline.brixel
      the backbone's own coarse map, to compare with
"""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What the command line asks for."""

    backbone: str
    backbone_weights: str
    adapter: str
    adapter_weights: str
    tap_layers: tuple[int, ...] | None
    size: tuple[int, int]
    channels: str
    sampler: str
    engine: str
    out: Path
    parity_images: Path | None
    seed: int


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Fuse pre-processing, backbone, adapter and head into one graph and prove it equal to PyTorch.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--backbone", metavar="NAME", help=f"dinov3 (architecture from the weights) or one of {', '.join(BACKBONES)}"
    )
    parser.add_argument(
        "--backbone-weights",
        metavar="FILE",
        help=".pth or .safetensors in Meta's, transformers' or timm's names; pretrained (timm's hub); random",
    )
    parser.add_argument("--adapter", choices=("brixel", "none"), default="brixel", help="none: the backbone's own map")
    parser.add_argument("--adapter-weights", metavar="FILE", help="adapter.safetensors, the authors' .pth, or random")
    parser.add_argument(
        "--tap-layers", metavar="I,J,...", help="blocks that the adapter reads, from 0; default: the table's"
    )
    parser.add_argument("--size", metavar="HxW", default="256x256", help="height x width in pixels (default 256x256)")
    parser.add_argument("--channels", choices=("BGR", "RGB"), default="BGR", help="order of the input's last axis")
    parser.add_argument(
        "--sampler",
        choices=("gridsample", "gather"),
        default="gridsample",
        help="lowering of deformable sampling; gather has no GridSample node",
    )
    parser.add_argument("--engine", choices=ENGINES, default="onnx", help="what to make (default onnx: fp32 graph)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="model directory to write (default NAME.brixel)")
    parser.add_argument(
        "--parity-images", metavar="DIR", type=Path, help="photographs of the proof; default: scikit-image's"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    add_common_arguments(parser)
    return parser


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
    return ExportRequest(
        backbone=DEFAULT_BACKBONE if default else arguments.backbone,
        backbone_weights=RANDOM if default else arguments.backbone_weights,
        adapter=arguments.adapter,
        adapter_weights=arguments.adapter_weights or RANDOM,
        tap_layers=_parse_layers(arguments.tap_layers),
        size=parse_size(arguments.size),
        channels=arguments.channels,
        sampler=arguments.sampler,
        engine=arguments.engine,
        out=arguments.out or Path("default.brixel" if default else f"{arguments.backbone}.brixel"),
        parity_images=arguments.parity_images,
        seed=arguments.seed,
    )


def _parse_layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise SpecError(f"--tap-layers {text!r} is not a list of block numbers; for instance 3,6,9,11")
    return tuple(int(part) for part in parts)


def check_engine(engine: str) -> None:
    """Whether this machine can make an engine, before anything slow is done.

    Raises:
        BackendMissing: the message says what to install where.
    """
    import importlib.util

    if engine == "trt-rtx" and importlib.util.find_spec("tensorrt_rtx") is None:
        raise BackendMissing("--engine trt-rtx needs TensorRT-RTX: pip install 'brixel-edge[trt-rtx]'")
    if engine.startswith("trt-") and engine != "trt-rtx" and importlib.util.find_spec("tensorrt") is None:
        raise BackendMissing(
            f"--engine {engine} needs TensorRT: on Jetson use JetPack's own (python3 -m venv --system-site-packages); "
            "on x86 with an NVIDIA GPU pip install 'brixel-edge[trt]'"
        )


def _load_torch_side() -> None:
    try:
        import onnxsim  # noqa: F401
        import timm  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise BackendMissing(
            f"{PROGRAM} needs {error.name}: pip install 'brixel-edge[export]' on the build machine"
        ) from error


def export(request: ExportRequest) -> dict[str, Any]:
    """Do it; the receipt of what was written."""
    check_engine(request.engine)
    _load_torch_side()
    from brixel_edge.backbone import load_backbone
    from brixel_edge.export.bundle_from_student import WeightSources, bundle_from_student
    from brixel_edge.export.fuse import spec_from_student
    from brixel_edge.student import load_student

    backbone = load_backbone(
        request.backbone, request.backbone_weights, tap_layers=request.tap_layers, seed=request.seed
    )
    student = load_student(backbone, request.adapter_weights, request.adapter, seed=request.seed)  # type: ignore[arg-type]
    spec = spec_from_student(student, *request.size, request.adapter, request.channels, name=request.backbone)
    if not spec.trained:
        _say(UNTRAINED_NOTICE)
    _say(f"weights of {spec.backbone}: licence {spec.licence}")
    return bundle_from_student(
        student,
        spec,
        request.out,
        images=_proof_images(request, spec),
        sources=WeightSources(
            backbone=_file_or_none(request.backbone_weights), adapter=_file_or_none(request.adapter_weights)
        ),
        sampler=request.sampler,  # type: ignore[arg-type]
        progress=_say,
    )


def _proof_images(request: ExportRequest, spec: ModelSpec) -> Any:
    from brixel_edge.export.bundle_from_student import ProofImages
    from brixel_edge.export.photographs import bundled_photographs, load_images, photographs_in

    paths = photographs_in(request.parity_images) if request.parity_images else bundled_photographs()
    pixels = load_images(paths, spec.image.height, spec.image.width, spec.image.channels)
    return ProofImages(names=[path.name for path in paths], pixels=pixels)


def _file_or_none(weights: str) -> Path | None:
    return None if weights in (RANDOM, "pretrained") else Path(weights)


def _say(line: str) -> None:
    print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)


def summary(receipt: dict[str, Any], out: Path) -> str:
    """The receipt for people."""
    spec, lines = receipt["spec"], [f"wrote {out}"]
    image = spec["image"]
    lines.append(
        f"  {image['height']}x{image['width']} {image['channels']} uint8 -> features "
        f"(1, {spec['dim']}, {spec['grid'][0]}, {spec['grid'][1]})"
    )
    if not spec["trained"]:
        lines.append(f"  {UNTRAINED_NOTICE}")
    for name, parity in receipt["parity"].items():
        lines.append(
            f"  {name}  {receipt['files'][name]['bytes'] / 1e6:.1f} MB  cosine mean {parity['cosine_mean']:.6f}, "
            f"worst 1 % {parity['cosine_p01']:.6f}, relative error {parity['frobenius']:.1e} "
            f"({parity['images'] if isinstance(parity['images'], int) else len(parity['images'])} photographs)"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-export."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        request = request_from_arguments(arguments)
        receipt = export(request)
        return {"out": str(request.out), **receipt}, summary(receipt, request.out)

    return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
