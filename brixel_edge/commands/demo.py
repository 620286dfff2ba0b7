"""brixel-demo: the whole road on the built-in model, from weights to a stream, with pictures to look at.

Exports the model and its baseline (the backbone alone), prints how far both are from PyTorch, runs a few seconds of
`demo:` with brixel-run, and puts photographs beside both feature maps, with what is like a point in each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.errors import BrixelError, BuildError, SpecError
from brixel_edge.model.bundle import MANIFEST_NAME
from brixel_edge.model.receipt import Receipt, read_receipt

PROGRAM = "brixel-demo"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Export, prove and stream the built-in model; leaves pictures."
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("demo"), help="folder to write (default demo)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the stream (default 10)")
    add_common_arguments(parser)
    return parser


def run_tool(command: str, *arguments: str) -> str:
    """Run another of the commands as a user would, in a process of its own; its stdout.

    Raises:
        BrixelError: it failed; carries its exit code. Its own error line has been shown already.
    """
    run = subprocess.run(
        [sys.executable, "-m", f"brixel_edge.commands.{command}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if run.returncode:
        error: BrixelError = BuildError(f"brixel-{command} ended with exit code {run.returncode}")
        error.exit_code = run.returncode
        raise error
    return run.stdout


def export_both(out: Path) -> dict[str, Receipt]:
    """The built-in model and its baseline as model directories; their receipts by name."""
    receipts = {}
    for name, flags in (("default", ()), ("baseline", ("--adapter", "none"))):
        run_tool("export", "--out", str(out / f"{name}.brixel"), "--json", *flags)
        receipts[name] = read_receipt(out / f"{name}.brixel" / MANIFEST_NAME)
    return receipts


def parity_table(receipts: dict[str, Receipt]) -> str:
    """How far each graph is from PyTorch."""
    lines = [f"{'against PyTorch, in ONNX Runtime':34}{'grid':>9}{'cosine':>11}{'worst 1 %':>11}{'rel. error':>12}"]
    for name, receipt in receipts.items():
        grid = "x".join(map(str, receipt.spec.grid))
        for graph, parity in receipt.parity.items():
            lines.append(
                f"{name + '/' + graph:34}{grid:>9}{parity.cosine_mean:11.6f}{parity.cosine_p01:11.6f}"
                f"{parity.frobenius:12.1e}"
            )
    return "\n".join(lines)


def demo(out: Path, seconds: float) -> tuple[dict[str, Any], str]:
    """Everything, in order.

    Raises:
        SpecError: a length that is not positive.
    """
    if seconds <= 0:
        raise SpecError(f"--seconds {seconds:g} is not positive; for instance 10")
    from brixel_edge.runtimes.pictures.still import write_still

    out.mkdir(parents=True, exist_ok=True)
    receipts = export_both(out)
    table = parity_table(receipts)
    print(table, flush=True, file=sys.stderr)
    model, video, still, statistics = (
        out / name for name in ("default.brixel", "demo.mp4", "still.png", "statistics.txt")
    )
    write_still({name: out / f"{name}.brixel" for name in receipts}, still)
    text = run_tool(
        *("run", str(model), "--source", "demo:", "--duration", f"{seconds:g}"),
        *("--headless", "--save", str(video), "--force"),
    )
    statistics.write_text(f"{table}\n\n{text}", encoding="utf-8")
    written = {"model": model, "video": video, "still": still, "statistics": statistics}
    lines = [text.rstrip(), "", *(f"{what:11}{path}" for what, path in written.items())]
    parity = {name: receipt.to_json()["parity"] for name, receipt in receipts.items()}
    record = {"parity": parity, **{what: str(path) for what, path in written.items()}}
    return record, "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-demo."""
    return run_command(build_parser(), lambda arguments: demo(arguments.out, arguments.seconds), argv)


if __name__ == "__main__":
    sys.exit(main())
