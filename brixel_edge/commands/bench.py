"""brixel-bench: every engine of a model that this machine can run, measured side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.bundle import MANIFEST_NAME, resolve_model

PROGRAM = "brixel-bench"
EPILOG = """\
Each engine runs in a process of its own, so that its memory is its own; they take turns, a few calls each, so that a
disturbance from outside hits all alike. Rows of one run can be compared; rows of two runs cannot, unless the machine
was quiet and its clock fixed (on Jetson: sudo nvpmodel -m 0, sudo jetson_clocks).

examples:
  brixel-bench
      the built-in default model
  brixel-bench vits16.brixel --threads 2
  brixel-bench vits16.brixel --in-turn
      on a board whose memory does not hold all engines at once
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Latency, throughput and memory of every engine of a model that this machine can run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="model directory or .onnx file (default: built in)")
    parser.add_argument("--threads", metavar="N", type=int, help="of CPU backends (default: one per core)")
    parser.add_argument("--warmup", metavar="N", type=int, default=3, help="calls before the first counted (default 3)")
    parser.add_argument("--rounds", metavar="N", type=int, default=20, help="turns of each engine (default 20)")
    parser.add_argument("--calls", metavar="N", type=int, default=5, help="counted calls of a turn (default 5)")
    parser.add_argument("--in-turn", action="store_true", help="one engine after another, for little memory")
    add_common_arguments(parser)
    return parser


def _bench(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    for name in ("warmup", "rounds", "calls", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise SpecError(f"--{name} {value} is not at least 1")
    if arguments.model and Path(arguments.model).is_file() and Path(arguments.model).name == MANIFEST_NAME:
        raise BundleError(f"{arguments.model} is the receipt; give its directory, {Path(arguments.model).parent}")
    resolved = resolve_model(arguments.model)
    from brixel_edge.runtimes.bench.bench import Schedule
    from brixel_edge.runtimes.bench.report import bench

    schedule = Schedule(warmup=arguments.warmup, rounds=arguments.rounds, calls=arguments.calls)
    report = bench(resolved, schedule, is_side_by_side=not arguments.in_turn, threads=arguments.threads)
    return report.to_json(), report.table()


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-bench."""
    return run_command(build_parser(), _bench, argv)


if __name__ == "__main__":
    sys.exit(main())
