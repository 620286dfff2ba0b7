"""brixel-doctor: what this machine can run, what not, why, and what to type."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.errors import BackendMissing

PROGRAM = "brixel-doctor"
EPILOG = """\
Nothing is run, installed or changed: files of the system are read, and libraries and cameras are asked in processes of
their own, each for 20 s at most. Lines are marked `ok`, `note` (works, and something should be known) or `no`.

examples:
  brixel-doctor
      this machine, and the built-in model
  brixel-doctor vits16.brixel
      which of its engines run here, and how far each is proven here
  brixel-doctor vits16.brixel --json

exit codes:
  0 an engine of the model runs here, 2 no model there, 3 none of its engines runs here
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="What this machine can run, what not, why, and what to type.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", type=Path, help="model directory or .onnx file (default: built in)"
    )
    add_common_arguments(parser)
    return parser


def _doctor(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from brixel_edge.runtimes.doctor.examination import examine, this_machine

    examination = examine(arguments.model, this_machine())
    if not examination.can_run:
        # What was found is worth more than the message alone.
        print(examination.table(), file=sys.stderr)
        raise BackendMissing(
            f"no engine of {arguments.model or 'the built-in model'} runs on this machine; the table says why"
        )
    return examination.to_json(), examination.table()


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-doctor."""
    return run_command(build_parser(), _doctor, argv)


if __name__ == "__main__":
    sys.exit(main())
