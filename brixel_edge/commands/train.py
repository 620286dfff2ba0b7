"""brixel-train: photographs in, adapter weights out."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brixel_edge.commands.command import (
    LOGGER_NAME,
    add_common_arguments,
    quiet_unless_first,
    require_packages,
    run_command,
)
from brixel_edge.commands.numbers import parse_layers
from brixel_edge.errors import SpecError
from brixel_edge.model.backbones import BACKBONES, BUILT_IN, DEFAULT_BACKBONE
from brixel_edge.model.spec import UNTRAINED_NOTICE, parse_size

if TYPE_CHECKING:
    from brixel_edge.model.adapters import ConvSettings
    from brixel_edge.training.record import TrainRecord
    from brixel_edge.training.settings import TrainSettings

PROGRAM = "brixel-train"

EPILOG = """\
DATA is a folder of photographs (searched through, .tar shards in it included), .tar shards with {000..099} or globs,
or, with --steps, shards that are streamed: http(s)://... or pipe:COMMAND.

examples:
  brixel-train --data photos --val held_out --backbone vit_small_patch16_dinov3 --backbone-weights vits16.pth --out run
  brixel-train ... --cache maps --cache-budget 40GiB      the teacher sees each photograph only once
  brixel-train ... --resume                               go on after a crash, to the same weights
  torchrun --nproc-per-node 4 -m brixel_edge.commands.train ...    four processes share each batch
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s --data DATA --val DATA --backbone NAME [--backbone-weights FILE] --out DIR [options]",
        description="Distil a frozen ViT's high-resolution map into an adapter for its low-resolution view.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", metavar="DATA", nargs="+", required=True, help="training photographs")
    parser.add_argument("--val", metavar="DATA", nargs="+", required=True, help="photographs held out")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where everything is written")
    _add_model_arguments(parser.add_argument_group("model"))
    _add_view_arguments(parser.add_argument_group("views"))
    _add_loss_arguments(parser.add_argument_group("losses"))
    _add_schedule_arguments(parser.add_argument_group("schedule"))
    _add_machine_arguments(parser.add_argument_group("machine"))
    add_common_arguments(parser)
    return parser


def _add_model_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--backbone", metavar="NAME", default=DEFAULT_BACKBONE,
                       help=f"dinov3 (architecture from the weights) or one of {', '.join(BACKBONES)}")  # fmt: skip
    group.add_argument(
        "--backbone-weights", metavar="FILE", help=".pth or .safetensors; pretrained (timm's hub); built-in; random"
    )
    group.add_argument(
        "--tap-layers", metavar="I,J,...", help="blocks that the adapter reads, from 0; default: the table's"
    )
    group.add_argument(
        "--adapter", choices=("brixel", "conv"), default="brixel", help="what is trained (default brixel)"
    )
    group.add_argument("--conv-width", type=int, metavar="C", help="of --adapter conv: channels at 1/8 and 1/4")
    group.add_argument("--full-frame", action="store_true",
                       help="of --adapter conv: its input is the frame at four times the backbone's view")  # fmt: skip
    group.add_argument(
        "--export-official", metavar="FILE", type=Path, help="also write a .pth under the authors' key names"
    )


def _add_view_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--size", metavar="HxW[,HxW...]", default="256x256",
                       help="the student's view [px], the teacher's is 4 times it; several are mixed")  # fmt: skip
    group.add_argument("--crops", choices=("centre", "random"), default="centre", help="which part of a photograph")
    group.add_argument("--flips", action="store_true", help="mirror half of the photographs")
    group.add_argument("--max-upscale", type=float, default=1.0, metavar="F",
                       help="enlarge small photographs up to F times (default 1: left out and counted)")  # fmt: skip


def _add_loss_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--l1-weight", type=float, default=1.0, metavar="W", help="default 1; 0 leaves the term out")
    group.add_argument("--edge-weight", type=float, default=1.0, metavar="W", help="default 1")
    group.add_argument("--spectral-weight", type=float, default=0.1, metavar="W", help="default 0.1")
    group.add_argument("--edge-norm", choices=("l1", "mse"), default="l1", help="l1: the paper; mse: the authors' code")
    group.add_argument("--spectral-mask", choices=("high", "authors"), default="authors",
                       help="authors: what their code computes; high: the paper's frequencies")  # fmt: skip


def _add_schedule_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--batch", type=int, default=16, help="photographs a step, over all processes (default 16)")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, default=3, help="default 3")
    length.add_argument("--steps", type=int, help="instead of epochs")
    group.add_argument("--learning-rate", type=float, default=1e-3, metavar="RATE", help="default 1e-3")
    group.add_argument("--warmup-steps", type=int, metavar="N", help="at a tenth of the rate (default: one epoch)")
    group.add_argument("--schedule", choices=("constant", "cosine"), default="constant", help="after the warm-up")
    group.add_argument("--drop-path", type=float, default=0.3, metavar="P", help="stochastic depth (default 0.3)")
    group.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    group.add_argument("--eval-every", type=int, metavar="N", help="steps between evaluations (default: ten a run)")
    group.add_argument("--val-limit", type=int, default=100, metavar="N", help="evaluate at most N photographs")
    group.add_argument(
        "--save-every", type=int, default=200, metavar="N", help="steps between checkpoints (default 200)"
    )
    group.add_argument("--resume", action="store_true", help="go on from the last good checkpoint in --out")


def _add_machine_arguments(group: argparse._ArgumentGroup) -> None:
    arithmetic = ("auto", "fp32", "bf16")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one"
    )
    group.add_argument("--precision", choices=arithmetic, default="auto", help="of the student; auto: bf16 on GPUs")
    group.add_argument("--teacher-precision", choices=arithmetic, default="auto",
                       help="auto: bf16 on GPUs and on CPUs that multiply in bf16")  # fmt: skip
    group.add_argument(
        "--teacher-batch", type=int, default=0, metavar="N", help="photographs at once; 0: the whole batch"
    )
    group.add_argument("--compile", action="store_true", help="run the teacher through torch.compile")
    group.add_argument("--workers", type=int, default=4, metavar="N", help="decoding threads (default 4)")
    group.add_argument("--prefetch", type=int, default=3, metavar="N", help="batches decoded ahead (default 3)")
    group.add_argument("--cache", metavar="DIR", type=Path, help="keep the teacher's maps here, in fp16")
    group.add_argument("--cache-budget", metavar="SIZE", help="the most that it may take, for instance 20GiB")


def settings_from_arguments(arguments: argparse.Namespace) -> TrainSettings:
    """Check what can be checked without loading anything.

    Raises:
        SpecError: values or flags that do not fit each other.
    """
    from brixel_edge.machine.memory import parse_bytes
    from brixel_edge.training.losses import LossSettings
    from brixel_edge.training.settings import TrainSettings
    from brixel_edge.training.views import ViewSettings

    if arguments.backbone_weights is None and arguments.backbone != DEFAULT_BACKBONE:
        raise SpecError(f"--backbone {arguments.backbone} needs --backbone-weights FILE (or pretrained, or random)")
    return TrainSettings(
        data=tuple(arguments.data),
        val=tuple(arguments.val),
        out=arguments.out,
        backbone=arguments.backbone,
        backbone_weights=arguments.backbone_weights or BUILT_IN,
        tap_layers=parse_layers(arguments.tap_layers),
        adapter=arguments.adapter,
        conv=_conv_settings(arguments),
        views=ViewSettings(
            sizes=tuple(parse_size(text) for text in arguments.size.split(",")),
            crops=arguments.crops,
            flips=arguments.flips,
            max_upscale=arguments.max_upscale,
        ),
        losses=LossSettings(
            l1=arguments.l1_weight,
            edge=arguments.edge_weight,
            spectral=arguments.spectral_weight,
            edge_norm=arguments.edge_norm,
            spectral_mask=arguments.spectral_mask,
        ),
        batch=arguments.batch,
        epochs=arguments.epochs,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        warmup_steps=arguments.warmup_steps,
        schedule=arguments.schedule,
        drop_path=arguments.drop_path,
        seed=arguments.seed,
        device=arguments.device,
        precision=arguments.precision,
        teacher_precision=arguments.teacher_precision,
        teacher_batch=arguments.teacher_batch,
        is_compiled=arguments.compile,
        workers=arguments.workers,
        prefetch=arguments.prefetch,
        cache=arguments.cache,
        cache_budget_bytes=parse_bytes(arguments.cache_budget) if arguments.cache_budget else 0,
        eval_every=arguments.eval_every,
        save_every=arguments.save_every,
        val_limit=arguments.val_limit,
        is_resumed=arguments.resume,
        export_official=arguments.export_official,
    )


def _conv_settings(arguments: argparse.Namespace) -> ConvSettings | None:
    from brixel_edge.model.adapters import ConvSettings

    given: dict[str, Any] = {"width": arguments.conv_width} if arguments.conv_width is not None else {}
    if arguments.full_frame:
        given["full_frame"] = True
    return ConvSettings(**given) if given else None


def summary(record: TrainRecord) -> str:
    """The record for people."""
    from brixel_edge.training.results import ADAPTER_NAME
    from brixel_edge.training.validation import METRICS

    out, best = record.settings.out, record.best
    lines = [
        f"wrote {out / ADAPTER_NAME}: step {record.best_step} of {record.total_steps}, "
        f"{record.parameters / 1e6:.2f} M parameters, {record.images_per_s:.2f} images/s",
        f"  licence of the backbone's weights: {record.licence}",
    ]
    if not record.is_backbone_trained:
        lines.append(f"  {UNTRAINED_NOTICE}")
    if best:
        lines.append(f"  {best.photographs} photographs held out, against the teacher's map:")
        lines.append(f"{'':>16}  {'bilinear':>10}  {'student':>10}")
        lines += [f"{name:>16}  {best.baseline[name]:10.4f}  {best.student[name]:10.4f}" for name in METRICS]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-train."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        require_packages(PROGRAM, "train", "PIL", "tensorboard", "timm", "torch", "tqdm")
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        from brixel_edge.training.loop import train

        settings = settings_from_arguments(arguments)
        with logging_redirect_tqdm([logging.getLogger(LOGGER_NAME)]):
            record = train(settings, lambda line: tqdm.write(f"{PROGRAM}: {line}", file=sys.stderr))
        return record.to_json(), summary(record)

    with quiet_unless_first():
        return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
