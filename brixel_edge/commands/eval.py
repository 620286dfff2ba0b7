"""brixel-eval: light probes on frozen features, scored on labelled data."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from brixel_edge.commands.command import add_common_arguments, quiet_unless_first, require_packages, run_command
from brixel_edge.commands.numbers import parse_layers

if TYPE_CHECKING:
    from brixel_edge.evaluation.settings import EvalSettings, Features

PROGRAM = "brixel-eval"
TASK_NAMES = (
    "ade20k", "cityscapes", "voc", "camvid", "nyuv2-depth", "nyuv2-normals", "navi-depth", "navi-normals",
    "7scenes-depth", "7scenes-normals", "davis",
)  # fmt: skip
FEATURE_NAMES = ("baseline", "logits", "probabilities", "brixel", "native", "equal-cost", "s2")

EPILOG = """\
tasks and the folders that --data must hold:
  ade20k                       ADEChallengeData2016/{images,annotations}/{training,validation}
  cityscapes                   {leftImg8bit,gtFine}/{train,val}/CITY, labelIds
  voc                          VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets}
  camvid                       {train,test}/{images,labels}, or SegNet's train, trainannot, test, testannot
  nyuv2-depth, -normals        nyu_depth_v2_labeled.mat and splits.mat, or {train,test}/SCENE/{rgb,sync_depth}_N
  navi-depth, -normals         OBJECT/wild_set/{annotations.json,images,depth,masks}
  7scenes-depth, -normals      SCENE/{seq-NN,TrainSplit.txt,TestSplit.txt}, or frames in one folder
  davis                        JPEGImages/480p, Annotations/480p, ImageSets/2017/val.txt

features of a backbone, side by side (default: baseline, native, and brixel where there is an adapter):
  baseline        its map, enlarged four times, bilinearly
  logits          its map as it is; the probe's answer is enlarged instead
  probabilities   the same, enlarged after the softmax
  brixel          with each --adapter
  native          its map of the picture at four times the size
  equal-cost      its map at the size that costs as much as each --adapter
  s2              two scales in one grid, five passes

examples:
  brixel-eval camvid --data camvid --model vit_small_patch16_dinov3 --backbone-weights vits16.pth \\
      --adapter adapter.safetensors --features baseline,brixel,native,equal-cost --size 256 --out results
  brixel-eval camvid --data camvid --model vits16.brixel --engine onnx-fp32 --engine onnx-int8
  brixel-eval camvid --data camvid --model vits16.brixel --save-head probe.safetensors
      then brixel-export ... --head probe.safetensors: a graph that gives masks
  torchrun --nproc-per-node 4 -m brixel_edge.commands.eval ade20k ...    four processes share the pictures
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s TASK --data ROOT --model MODEL [options]",
        description="Train a light probe on frozen features and score it at the labels' own size.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", metavar="TASK", choices=TASK_NAMES, help=f"one of {', '.join(TASK_NAMES)}")
    parser.add_argument("--data", metavar="ROOT", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--model", metavar="MODEL", required=True,
                        help="a model directory, an .onnx file, or a backbone's name")  # fmt: skip
    _add_feature_arguments(parser.add_argument_group("features"))
    _add_probe_arguments(parser.add_argument_group("probe"))
    _add_machine_arguments(parser.add_argument_group("machine and results"))
    add_common_arguments(parser)
    return parser


def _add_feature_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--backbone-weights", metavar="FILE", default="random",
                       help="of a backbone's name: a file, pretrained (timm's hub), built-in or random")  # fmt: skip
    group.add_argument("--tap-layers", metavar="I,J,...", help="blocks from 0; the last one's map is the backbone's")
    group.add_argument("--adapter", metavar="FILE", action="append", default=[],
                       help="or official: the authors', fetched; may be given several times")  # fmt: skip
    group.add_argument("--features", metavar="A,B,...", help=f"of {', '.join(FEATURE_NAMES)}")
    group.add_argument("--engine", metavar="E", action="append", default=[],
                       help="of a model directory, for instance onnx-int8; may be given several times")  # fmt: skip
    group.add_argument("--size", metavar="S|HxW", default="256",
                       help="of the student's view [px]: shorter side, or all of it (default 256)")  # fmt: skip


def _add_probe_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--protocol", choices=("labels", "authors"), default="labels",
                       help="labels: scored at the labels' own size; authors: as the paper's scripts do")  # fmt: skip
    group.add_argument("--probe", choices=("auto", "linear", "light"), default="auto",
                       help="auto: linear for classes, a hidden layer for depth and normals")  # fmt: skip
    group.add_argument("--seeds", metavar="N", type=int, default=3, help="probes to train for each row (default 3)")
    group.add_argument("--epochs", metavar="N", type=int, help="default: the protocol's")
    group.add_argument("--batch", metavar="N", type=int, help="default: the protocol's")
    group.add_argument("--learning-rate", metavar="RATE", type=float, help="default: the protocol's")
    group.add_argument("--limit", metavar="N", type=int, help="at most N pictures of each split")
    group.add_argument("--save-head", metavar="FILE", type=Path,
                       help="write the first seed's linear probe, for brixel-export --head")  # fmt: skip
    group.add_argument("--head-kind", metavar="KIND", default="probe",
                       help="of --save-head: probe; prototypes, one feature a class; pca-K, components")  # fmt: skip


def _add_machine_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one"
    )
    group.add_argument("--threads", metavar="N", type=int, help="of the CPU (default: one per core)")
    group.add_argument("--cache", metavar="DIR", type=Path, help="keep features here, in fp16; default: in memory")
    group.add_argument("--cache-budget", metavar="SIZE", default="8GiB", help="the most they may take (default 8GiB)")
    group.add_argument("--write-receipt", action="store_true", help="add the engines' scores to the model's model.json")
    group.add_argument("--out", metavar="DIR", type=Path, help="write eval.json, eval.md, eval.png and the probes")


def settings_from_arguments(arguments: argparse.Namespace) -> EvalSettings:
    """Check what can be checked without loading anything.

    Raises:
        SpecError: values or flags that do not fit each other.
    """
    from brixel_edge.evaluation.settings import EvalSettings, parse_input_size
    from brixel_edge.machine.memory import parse_bytes

    features = tuple(name.strip() for name in arguments.features.split(",")) if arguments.features else ()
    return EvalSettings(
        task=arguments.task,
        data=arguments.data,
        model=arguments.model,
        backbone_weights=arguments.backbone_weights,
        tap_layers=parse_layers(arguments.tap_layers),
        adapters=tuple(arguments.adapter),
        features=cast("tuple[Features, ...]", features),
        engines=tuple(arguments.engine),
        size=parse_input_size(arguments.size),
        protocol=arguments.protocol,
        probe=arguments.probe,
        seeds=arguments.seeds,
        epochs=arguments.epochs,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        limit=arguments.limit,
        cache=arguments.cache,
        cache_budget=parse_bytes(arguments.cache_budget),
        device=arguments.device,
        threads=arguments.threads,
        out=arguments.out,
        is_receipt_written=arguments.write_receipt,
        save_head=arguments.save_head,
        head_kind=arguments.head_kind,
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-eval."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        require_packages(PROGRAM, "eval", "onnx", "PIL", "timm", "torch")
        from brixel_edge.evaluation.evaluate import evaluate
        from brixel_edge.evaluation.results import evaluations_of, table, write_results
        from brixel_edge.model.bundle import add_evaluations

        settings = settings_from_arguments(arguments)
        record = evaluate(settings)
        if os.environ.get("RANK", "0") == "0":
            if settings.out is not None:
                write_results(settings.out, record)
            if settings.is_receipt_written:
                add_evaluations(Path(settings.model), evaluations_of(record))
        return record, table(record)

    with quiet_unless_first():
        return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
