"""brixel-bench: every engine of a model that this machine can run, measured side by side."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.errors import BundleError, SpecError
from brixel_edge.machine.memory import MIB
from brixel_edge.model.bundle import MANIFEST_NAME, resolve_model

if TYPE_CHECKING:
    from brixel_edge.runtimes.bench.bench import Contestant, Protocol, Row

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


def contestants_of_folder(folder: Path, size: tuple[int, int], threads: int | None = None) -> list[Contestant]:
    """Every graph and engine of a folder with every backend that may run it.

    Args:
        folder: a model directory, or one in the making.
        size: (H, W) of its image [px].
        threads: of CPU backends.
    """
    from brixel_edge.runtimes.bench.bench import Contestant

    def entry(path: Path, backend: str, **further: Any) -> Contestant:
        hint = f" {further['openvino_precision']}" if further else ""
        name = f"{path.name}, {backend}{hint}"
        return Contestant(name=name, path=path, backend=backend, size=size, threads=threads, **further)

    found = []
    has_openvino = importlib.util.find_spec("openvino") is not None
    for path in sorted(folder.glob("graph.*.onnx")):
        is_for_ort = path.name == "graph.int8.ort.onnx"
        # ONNX Runtime has no bfloat16 kernels on a CPU, and runs TensorRT's form of INT8 in floating point.
        if path.name not in ("graph.bf16.onnx", "graph.int8.onnx"):
            found.append(entry(path, "ort"))
        if has_openvino and not is_for_ort:
            found.append(entry(path, "openvino"))
        if has_openvino and path.name == "graph.fp32.onnx" and _has_bf16():
            found.append(entry(path, "openvino", openvino_precision="bf16"))
    return found + [entry(path, "trt") for path in sorted(folder.glob("engine.*.plan"))]


def _has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure; the result as plain JSON values.

    Raises:
        BundleError: no model there, or a changed file.
        SpecError: a count that is not positive.
        BuildError: nothing of it runs here.
    """
    for name in ("warmup", "rounds", "calls", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise SpecError(f"--{name} {value} is not at least 1")
    contestants, model = _contestants(arguments)
    from brixel_edge.runtimes.bench.bench import Protocol, machine_facts, require_measured

    protocol = Protocol(warmup=arguments.warmup, rounds=arguments.rounds, calls=arguments.calls)
    before = machine_facts()
    rows = _measured(contestants, protocol, in_turn=arguments.in_turn)
    require_measured(rows)
    return {
        "model": model,
        "machine": before,
        "clock_mhz_after": machine_facts()["clock_mhz"],
        "protocol": {**dataclasses.asdict(protocol), "is_side_by_side": not arguments.in_turn},
        "threads": arguments.threads,
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def _contestants(arguments: argparse.Namespace) -> tuple[list[Contestant], dict[str, Any]]:
    from brixel_edge.runtimes.bench.bench import Contestant

    resolved = resolve_model(arguments.model)
    image = resolved.spec.image
    size, facts = (image.height, image.width), {"name": resolved.name, "size": [image.height, image.width]}
    if resolved.root is not None:
        return contestants_of_folder(resolved.root, size, arguments.threads), facts
    backends = ("ort", "openvino") if importlib.util.find_spec("openvino") else ("ort",)
    return [
        Contestant(
            name=f"{resolved.graph.name}, {backend}",
            path=resolved.graph,
            backend=backend,
            size=size,
            threads=arguments.threads,
        )
        for backend in backends
    ], facts


def _measured(contestants: Sequence[Contestant], protocol: Protocol, *, in_turn: bool) -> list[Row]:
    from brixel_edge.runtimes.bench.bench import measure

    total = protocol.rounds * (len(contestants) if in_turn else 1)
    done = 0

    def on_round() -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty():
            print(
                f"\r{PROGRAM}: round {done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True
            )

    if in_turn:
        return [row for entry in contestants for row in measure([entry], protocol, on_round)]
    return measure(contestants, protocol, on_round)


def table(record: dict[str, Any]) -> str:
    """The result for people."""
    machine, protocol = record["machine"], record["protocol"]
    column = max([43, *(len(row["name"]) for row in record["rows"])]) + 1
    height, width = record["model"]["size"]
    lines = [
        f"{record['model']['name']}, {height}x{width}, batch 1",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}",
        f"clock {_number(machine['clock_mhz'])} MHz before, {_number(record['clock_mhz_after'])} after, governor "
        f"{machine['governor'] or 'unknown'}, load {_number(machine['load_1min'], 1)}",
        f"{protocol['warmup']} calls to warm up, then {protocol['rounds']} turns of {protocol['calls']} calls, "
        + ("side by side" if protocol["is_side_by_side"] else "one engine after another"),
        "",
        f"{'engine':<{column}}{'p50 ms':>9}{'p99 ms':>9}{'per s':>8}{'peak MiB':>10}{'load s':>8}",
    ]
    for row in record["rows"]:
        if row["error"] is not None:
            lines.append(f"{row['name']:<{column}}  not run: {row['error']}")
            continue
        memory = _number(row["peak_bytes"] / MIB if row["peak_bytes"] else None)
        device = f"  + {row['device_bytes'] / MIB:.0f} MiB on the device" if row["device_bytes"] else ""
        lines.append(
            f"{row['name']:<{column}}{row['p50_ms']:>9.1f}{row['p99_ms']:>9.1f}{row['per_s']:>8.1f}{memory:>10}"
            f"{row['load_s']:>8.2f}{device}"
        )
    return "\n".join(lines)


def _number(value: float | None, digits: int = 0) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-bench."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        if arguments.model and Path(arguments.model).is_file() and Path(arguments.model).name == MANIFEST_NAME:
            raise BundleError(f"{arguments.model} is the receipt; give its directory, {Path(arguments.model).parent}")
        record = bench(arguments)
        return record, table(record)

    return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
