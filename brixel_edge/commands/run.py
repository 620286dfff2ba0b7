"""brixel-run: a model on a camera, a file or the demo."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brixel_edge.commands.command import EXIT_INTERRUPTED, add_common_arguments, run_command
from brixel_edge.commands.stop_signals import StopSignals, end_at_once
from brixel_edge.errors import BrixelError, SpecError
from brixel_edge.machine.memory import parse_bytes

if TYPE_CHECKING:
    from brixel_edge.runtimes.stream.run_options import RunOptions

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
    source = parser.add_mutually_exclusive_group()
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
    parser.add_argument(
        "--policy",
        metavar="P",
        help="which frames: latest, every or max-age=MS (default: max-age=1000 of what is live, else every)",
    )
    parser.add_argument("--fit", choices=("stretch", "crop", "pad"), default="stretch", help="frames of another aspect")
    parser.add_argument("--headless", action="store_true", help="show nothing")
    parser.add_argument(
        "--save", metavar="PATH", type=Path, help="video (.mp4 .mkv .mov .avi), features (.mcap), or folder of PNGs"
    )
    parser.add_argument(
        "--save-features", choices=("npz",), help="with --save DIR: one .npz of features a frame, in place of PNGs"
    )
    parser.add_argument(
        "--save-precision",
        choices=("fp16", "fp32"),
        help="of features in .mcap and .npz (default: as they were computed)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite what --save and --save-prototypes name")
    parser.add_argument(
        "--query",
        metavar="[NAME=]X,Y",
        action="append",
        default=[],
        help="look for what is at this pixel of the first frame; several of one name refine it",
    )
    parser.add_argument("--prototypes", metavar="FILE", type=Path, help="look for what a .prototypes file holds")
    parser.add_argument("--save-prototypes", metavar="FILE", type=Path, help="keep what was pointed at in this file")
    parser.add_argument(
        "--preview",
        metavar="HOST:PORT",
        nargs="?",
        const="",
        help="serve a page with pictures, clicks and figures (default 127.0.0.1:8800; else with a token)",
    )
    parser.add_argument("--duration", metavar="S", type=_positive_number, help="stop after so many seconds")
    parser.add_argument("--frames", metavar="N", type=_positive_count, help="stop after so many frames")
    parser.add_argument(
        "--backend", choices=("auto", "ort", "openvino", "trt"), default="auto",
        help="auto: what the export was asked for if it is right here, else the next that is; of a bare graph OpenVINO "
        "on x86 where it is installed, else ONNX Runtime",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16", "int8"), help="only graphs and engines of this precision"
    )
    parser.add_argument(
        "--openvino-precision",
        choices=("auto", "f32", "bf16"),
        default="auto",
        help="auto: f32, and bf16 around the integers of INT8; bf16: faster where the CPU has it, less exact",
    )
    parser.add_argument(
        "--backbone-every",
        metavar="N",
        type=_positive_count,
        help="the backbone on every N-th frame, the adapter on each (of an export with --split)",
    )
    parser.add_argument("--threads", metavar="N", type=_positive_count, help="of CPU backends (default: one per core)")
    parser.add_argument(
        "--budget", metavar="SIZE", help="memory that the process may take, for instance 900MiB or 2GiB"
    )
    parser.add_argument(
        "--reconnect",
        metavar="S",
        type=_positive_number,
        default=30.0,
        help="try a lost camera again for S s (default 30)",
    )
    parser.add_argument("--quiet", action="store_true", help="no line each second")
    add_common_arguments(parser)
    return parser


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


def _options(arguments: argparse.Namespace) -> RunOptions:
    """What the arguments mean; refuses what can be refused before anything is loaded.

    Raises:
        BrixelError: a budget, source or path that cannot be.
    """
    budget_bytes = parse_bytes(arguments.budget) if arguments.budget else None
    from brixel_edge.runtimes.asking.prototype_file import check_prototype_target
    from brixel_edge.runtimes.asking.prototypes import Prototypes
    from brixel_edge.runtimes.asking.requests import parse_query
    from brixel_edge.runtimes.pictures.targets import Saving, check_feature_options, check_target
    from brixel_edge.runtimes.preview.address import parse_address
    from brixel_edge.runtimes.stream.policies import parse_policy
    from brixel_edge.runtimes.stream.run_options import RunOptions

    check_feature_options(arguments.save, arguments.save_features, arguments.save_precision)
    saving = Saving(path=arguments.save, features=arguments.save_features, precision=arguments.save_precision)
    sources = _sources(arguments)
    if saving.path is not None and not saving.keeps_features and len(sources) > 1:
        raise SpecError(
            f"--save {saving.path} shows one source, not {len(sources)}; start one brixel-run for each, with a --save "
            "of its own, or keep features, which carry their source: --save features.mcap"
        )
    if arguments.save is not None:
        check_target(arguments.save, is_replacing=arguments.force)
    queries = tuple(parse_query(text) for text in arguments.query)
    if arguments.save_prototypes is not None:
        updated = arguments.save_prototypes == arguments.prototypes
        check_prototype_target(arguments.save_prototypes, is_replacing=arguments.force or updated)
    return RunOptions(
        model=arguments.model,
        sources=sources,
        policy=parse_policy(arguments.policy) if arguments.policy else None,
        backend=arguments.backend,
        precision=arguments.precision,
        backbone_every=arguments.backbone_every,
        openvino_precision=arguments.openvino_precision,
        threads=arguments.threads,
        fit=arguments.fit,
        budget_bytes=budget_bytes,
        headless=arguments.headless,
        saving=saving,
        duration_s=arguments.duration,
        frames=arguments.frames,
        reconnect_s=arguments.reconnect,
        queries=queries,
        prototypes=Prototypes.load(arguments.prototypes) if arguments.prototypes is not None else None,
        save_prototypes=arguments.save_prototypes,
        preview=parse_address(arguments.preview) if arguments.preview is not None else None,
    )


def _sources(arguments: argparse.Namespace) -> tuple[str, ...]:
    """What was named; an empty name, as of a variable that is not set, is refused.

    Raises:
        SpecError: one is empty.
    """
    for flag, given in (("--camera", arguments.camera), ("--source", arguments.source)):
        if given and not all(name.strip() for name in given):
            raise SpecError(f"{flag} is empty; give {flag} 0, or leave it out for the demo")
    return tuple(arguments.camera or arguments.source or ["demo:"])


def _say(line: str) -> None:
    # Who read our lines may be gone (`2>&1 | head`); that ends no run.
    with contextlib.suppress(OSError, ValueError):
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace, signals: StopSignals) -> tuple[dict[str, Any], str]:
    try:
        options = _options(arguments)
        from brixel_edge.runtimes.stream.run import StreamRun
    except Exception as error:
        if signals.is_set():  # an import that is broken off raises whatever its author thought of
            raise KeyboardInterrupt from error
        raise
    signals.is_interrupting = False
    run = StreamRun(options, signals, _say, None if arguments.quiet else _say)
    try:
        report = run.run()
    except BrixelError:
        # A stream that was lost after an hour still has figures; stdout is for results, and this is none.
        if (report := run.report()).processed:
            print(report.table(), file=sys.stderr)
        raise
    return report.to_json(), report.table()


def set_up_libraries() -> None:
    """Before numpy and OpenCV are loaded, which read these once.

    NumPy's BLAS threads would fight with the engine's for the cores; FFmpeg and OpenCV explain every failure on stderr,
    where one line is ours.
    """
    for name, value in (
        ("OPENBLAS_NUM_THREADS", "1"), ("OPENCV_FFMPEG_LOGLEVEL", "-8"), ("OPENCV_LOG_LEVEL", "SILENT"),
    ):  # fmt: skip
        os.environ.setdefault(name, value)


def main(argv: list[str] | None = None, signals: StopSignals | None = None) -> int:
    """brixel-run; its entry point is `start.main`.

    Args:
        argv: None takes those of the process.
        signals: installed already; None installs them here.
    """
    set_up_libraries()
    if signals is None:
        signals = StopSignals()
        signals.install()
    try:
        code = run_command(build_parser(), functools.partial(_run, signals=signals), argv)
    finally:
        signals.restore()
    if code == EXIT_INTERRUPTED and signals.is_set():
        end_at_once("--json" in (sys.argv if argv is None else argv))
    if argv is None and any(thread.name.startswith("brixel-") for thread in threading.enumerate()):
        # A thread is inside a driver or an engine that does not return; the interpreter would wait for it, or crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
