"""The command line of brixel-run: its flags, by what they are about."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from brixel_edge.commands.command import add_common_arguments

PROGRAM = "brixel-run"
EPILOG = """\
examples:
  brixel-run
      the built-in model on the demo: photographs as if from a camera
  brixel-run vits16.brixel --camera 0
  brixel-run vits16.brixel --camera "0?width=1280&height=720&fps=30&fourcc=MJPG" --fit crop
  brixel-run vits16.brixel --source rtsp://user:password@10.0.0.7/stream1 --headless --json
  brixel-run vits16.brixel --source drive.mp4 --save features.mp4
  brixel-run vits16.brixel --source photographs/ --save panels
  brixel-run vits16.brixel --camera 0 --save features.mcap
  brixel-run vits16.brixel --source features.mcap
  brixel-run vits16.brixel --camera 0 --budget 900MiB --duration 60
  brixel-run vits16.brixel --camera 0 --query cup=320,240 --save-prototypes kitchen.prototypes
  brixel-run vits16.brixel --camera 0 --headless --preview 0.0.0.0:8800
  brixel-run vits16.brixel --source drive.mp4 --prototypes kitchen.prototypes --headless --json

In the window: left click on a thing, right click where it is not; n next thing, c forget it, h colours or heat map.
Esc, q or Ctrl-C end a run; the table of its figures comes first, and the exit code is 0. A second Ctrl-C kills it.

exit codes:
  0 done or stopped by you, 2 bad input, 3 backend not installed, 6 over the memory budget,
  7 a camera or stream that does not open or was lost for good
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Dense features of a live camera, a video or images: shown, saved, or just measured.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="model directory or .onnx file (default: built in)")
    _add_source(parser.add_argument_group("where frames come from"))
    _add_view(parser.add_argument_group("what is shown"))
    _add_saving(parser.add_argument_group("what is kept"))
    _add_asking(parser.add_argument_group("what is looked for"))
    _add_engine(parser.add_argument_group("what computes"))
    _add_end(parser.add_argument_group("when it ends"))
    add_common_arguments(parser)
    return parser


# argparse has no public name for what add_argument_group gives.
Group = argparse._ArgumentGroup


def _add_source(group: Group) -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--camera", metavar="C", action="append", help="number or device, perhaps with a mode: 0, /dev/video2, 0?fps=30"
    )
    source.add_argument(
        "--source",
        metavar="S",
        action="append",
        help="video file, recording (.mcap), folder or glob of images, rtsp:// or http:// URL, gst:, test:clock, "
        "demo: (default); several share the engine",
    )
    group.add_argument(
        "--policy",
        metavar="P",
        help="which frames: latest, every or max-age=MS (default: max-age=1000 of what is live, else every)",
    )
    group.add_argument("--fit", choices=("stretch", "crop", "pad"), default="stretch", help="frames of another aspect")
    group.add_argument(
        "--reconnect",
        metavar="S",
        type=_positive_number,
        default=30.0,
        help="try a lost camera again for S s (default 30)",
    )


def _add_view(group: Group) -> None:
    group.add_argument("--headless", action="store_true", help="show nothing")
    group.add_argument(
        "--preview",
        metavar="HOST:PORT",
        nargs="?",
        const="",
        help="serve a page with pictures, clicks and figures (default 127.0.0.1:8800; else with a token)",
    )
    group.add_argument("--quiet", action="store_true", help="no line each second")


def _add_saving(group: Group) -> None:
    group.add_argument(
        "--save", metavar="PATH", type=Path, help="video (.mp4 .mkv .mov .avi), features (.mcap), or folder of PNGs"
    )
    group.add_argument(
        "--save-features", choices=("npz",), help="with --save DIR: one .npz of features a frame, in place of PNGs"
    )
    group.add_argument(
        "--save-precision",
        choices=("fp16", "fp32"),
        help="of features in .mcap and .npz (default: as they were computed)",
    )
    group.add_argument("--force", action="store_true", help="overwrite what --save and --save-prototypes name")


def _add_asking(group: Group) -> None:
    group.add_argument(
        "--query",
        metavar="[NAME=]X,Y",
        action="append",
        default=[],
        help="look for what is at this pixel of the first frame; several of one name refine it",
    )
    group.add_argument("--prototypes", metavar="FILE", type=Path, help="look for what a .prototypes file holds")
    group.add_argument("--save-prototypes", metavar="FILE", type=Path, help="keep what was pointed at in this file")


def _add_engine(group: Group) -> None:
    group.add_argument(
        "--backend",
        choices=("auto", "ort", "openvino", "trt"),
        default="auto",
        help="auto: what the export was asked for if it is right here, else the next that is; of a bare graph OpenVINO "
        "on x86 where it is installed, else ONNX Runtime",
    )
    group.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16", "int8"), help="only graphs and engines of this precision"
    )
    group.add_argument(
        "--openvino-precision",
        choices=("auto", "f32", "bf16"),
        default="auto",
        help="auto: f32, and bf16 around the integers of INT8; bf16: faster where the CPU has it, less exact",
    )
    group.add_argument(
        "--backbone-every",
        metavar="N",
        type=_positive_count,
        help="the backbone on every N-th frame, the adapter on each (of an export with --split)",
    )
    group.add_argument("--threads", metavar="N", type=_positive_count, help="of CPU backends (default: one per core)")
    group.add_argument("--budget", metavar="SIZE", help="memory that the process may take, for instance 900MiB or 2GiB")


def _add_end(group: Group) -> None:
    group.add_argument("--duration", metavar="S", type=_positive_number, help="stop after so many seconds")
    group.add_argument("--frames", metavar="N", type=_positive_count, help="stop after so many frames")


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def _positive_count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
