"""brixel-verify: the parity gate again, here, on the engines of a model directory, without PyTorch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.errors import SpecError
from brixel_edge.model.engine_choice import ENGINE_NAMES

PROGRAM = "brixel-verify"
MAP_NAME = "verify.png"
EPILOG = """\
What PyTorch computed at the export travels in the model directory (proof.npz). With --images, the reference is
graph.fp32.onnx in ONNX Runtime, here, after it has passed on the proof.

examples:
  brixel-verify vits16.brixel
      every engine that runs here
  brixel-verify vits16.brixel --engine trt-fp16 --map fp16.png
  brixel-verify vits16.brixel --images photographs/

exit codes:
  0 every engine passed, 2 bad input, 3 the engine's backend is not here, 5 one differs
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Prove on this device that a model's engines still compute what PyTorch does.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", type=Path, help="model directory of brixel-export")
    parser.add_argument("--images", metavar="F", type=Path, help="image, or folder of images, instead of the proof's")
    parser.add_argument("--engine", choices=ENGINE_NAMES, help="only this one (default: all that run here)")
    parser.add_argument("--map", metavar="PNG", type=Path, help=f"difference map to write (default DIR/{MAP_NAME})")
    parser.add_argument("--threads", metavar="N", type=int, help="of CPU backends (default: one per core)")
    add_common_arguments(parser)
    return parser


def _verify(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    if arguments.threads is not None and arguments.threads < 1:
        raise SpecError(f"--threads {arguments.threads} is not at least 1")
    from brixel_edge.runtimes.verify import verify

    report = verify(
        arguments.model,
        images=arguments.images,
        engine=arguments.engine,
        threads=arguments.threads,
        picture=arguments.map or arguments.model / MAP_NAME,
        # A model directory may be read only: then the map goes into the current folder.
        alternative=None if arguments.map else Path(f"{arguments.model.resolve().name}.{MAP_NAME}"),
    )
    if report.failed:
        # What was measured is worth more than the message alone.
        print(report.table(), file=sys.stderr)
    report.check()
    return report.to_json(), report.table()


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-verify."""
    return run_command(build_parser(), _verify, argv)


if __name__ == "__main__":
    sys.exit(main())
