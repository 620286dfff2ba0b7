"""brixel-run: a model on a camera, a file or the demo."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from brixel_edge.commands.command import EXIT_INTERRUPTED, run_command
from brixel_edge.commands.run_arguments import PROGRAM, build_parser
from brixel_edge.commands.stop_signals import StopSignals, end_at_once
from brixel_edge.errors import BrixelError, SpecError
from brixel_edge.machine.memory import parse_bytes

if TYPE_CHECKING:
    from brixel_edge.runtimes.stream.run_options import RunOptions


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
