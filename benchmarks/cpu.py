"""Our student against PyTorch and against the native high-resolution backbone, on this CPU, in one run.

    python benchmarks/cpu.py [--backbone vit_small_patch16_dinov3] [--rounds 7] [--threads 2] [--out results/cpu.json]

All contestants run in one process, interleaved call by call; a row is the median over the rounds, and its ratio is the
median of the per-round ratios to the reference row. Weights are random: speed does not depend on them. The peak memory
of a runtime is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
from brixel_edge.export.graph.to_onnx import onnx_from_model
from brixel_edge.network.backbone import Backbone, load_backbone
from brixel_edge.network.flops import count_gflop
from brixel_edge.network.student import Student, load_student
from brixel_edge.runtimes.engines import open_runtime
from brixel_edge.runtimes.runtime import OpenVinoPrecision, RuntimeSettings

SMALL, LARGE = 256, 1024
REFERENCE = "student 256, ONNX Runtime fp32"
NATIVE = "backbone 1024, ONNX Runtime fp32"
PAUSE_S = 0.1  # between calls: worker threads of the last one spin for a while


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One row: a name, what it computes, and a call of it."""

    name: str
    gflop: float
    call: Callable[[], object]


def torch_call(student: Student, size: int) -> Callable[[], object]:
    image = torch.randn(1, 3, size, size)

    def call() -> object:
        with torch.inference_mode():
            return student(image)

    return call


def graph_of(student: Student, size: int, folder: Path, name: str) -> Path:
    adapter = "none" if student.refiner is None else "brixel"
    spec = spec_from_student(student, size, size, adapter, name=name)
    path = folder / f"{name}.onnx"
    onnx_from_model(FusedModel(student, spec).eval(), spec, path)
    return path


def runtime_call(
    graph: Path, size: int, backend: str, threads: int, precision: OpenVinoPrecision = "f32"
) -> Callable[[], object]:
    settings = RuntimeSettings(threads=threads, openvino_precision=precision)
    runtime = open_runtime(graph, backend, settings)
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    return lambda: runtime.infer(image)


def contestants(backbone: Backbone, folder: Path, threads: int) -> list[Contestant]:
    student, bare = load_student(backbone, "random"), Student(backbone, None)
    flops = {(s, size): count_gflop(m, torch.empty(1, 3, size, size)) for s, m, size in (
        ("student", student, SMALL), ("backbone", bare, SMALL), ("backbone", bare, LARGE))}  # fmt: skip
    graphs = {
        ("student", SMALL): graph_of(student, SMALL, folder, "student"),
        ("backbone", SMALL): graph_of(bare, SMALL, folder, "bare256"),
        ("backbone", LARGE): graph_of(bare, LARGE, folder, "bare1024"),
    }
    rows = []
    for key, graph in graphs.items():
        what, size = key
        model = student if what == "student" else bare
        label = f"{what} {size}"
        rows.append(Contestant(name=f"{label}, PyTorch eager", gflop=flops[key], call=torch_call(model, size)))
        for backend, precision, name in (
            ("ort", "f32", "ONNX Runtime fp32"),
            ("openvino", "f32", "OpenVINO fp32"),
            ("openvino", "bf16", "OpenVINO bf16"),
        ):
            call = runtime_call(graph, size, backend, threads, precision)
            rows.append(Contestant(name=f"{label}, {name}", gflop=flops[key], call=call))
    return rows


def measure(rows: list[Contestant], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every row in every round, after one round of warm-up."""
    times: dict[str, list[float]] = {row.name: [] for row in rows}
    for index in range(rounds + 1):
        for row in rows:
            start = time.perf_counter()
            row.call()
            if index:
                times[row.name].append((time.perf_counter() - start) * 1e3)
            time.sleep(PAUSE_S)
        print(f"round {index} of {rounds}" + ("" if index else " (warm-up)"), file=sys.stderr, flush=True)
    return times


def ratio(times: dict[str, list[float]], name: str, reference: str) -> float:
    """Median over the rounds of time(name) / time(reference)."""
    return statistics.median(a / b for a, b in zip(times[name], times[reference], strict=True))


def peak_memory_mb(graph: Path, backend: str, threads: int) -> float:
    """Peak resident memory of a process that only runs the graph ten times."""
    import subprocess

    code = (
        "import sys, numpy as np\n"
        "from brixel_edge.machine.memory import peak_rss_bytes\n"
        "from brixel_edge.runtimes.engines import open_runtime\n"
        "from brixel_edge.runtimes.runtime import RuntimeSettings\n"
        f"runtime = open_runtime(sys.argv[1], {backend!r}, RuntimeSettings(threads={threads}))\n"
        f"image = np.zeros((1, {SMALL}, {SMALL}, 3), np.uint8)\n"
        "for _ in range(10): runtime.infer(image)\n"
        "print(peak_rss_bytes())"
    )
    run = subprocess.run([sys.executable, "-c", code, str(graph)], capture_output=True, text=True, check=True)
    return int(run.stdout) / 1e6


def report(rows: list[Contestant], times: dict[str, list[float]]) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    print(f"{'':36}{'GFLOP':>8}{'median ms':>11}{'x student':>11}")
    for row in rows:
        relative = ratio(times, row.name, REFERENCE)
        median_ms = statistics.median(times[row.name])
        print(f"{row.name:36}{row.gflop:8.1f}{median_ms:11.1f}{relative:11.2f}")
        records.append({"name": row.name, "gflop": row.gflop, "median_ms": median_ms, "ratio_to_student": relative})
    speedup = ratio(times, NATIVE, REFERENCE)
    print(f"\nsame 64 x 64 grid, ONNX Runtime: the student is {speedup:.1f} x as fast as the native map")
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_dinov3")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = contestants(load_backbone(arguments.backbone), Path(folder), arguments.threads)
        memory = {b: peak_memory_mb(Path(folder) / "student.onnx", b, arguments.threads) for b in ("ort", "openvino")}
        records = report(rows, measure(rows, arguments.rounds))
    for backend, megabytes in memory.items():
        print(f"peak memory of a process that runs the student in {backend}: {megabytes:.0f} MB")
    if arguments.out:
        machine = {"machine": platform.machine(), "threads": arguments.threads, "rounds": arguments.rounds}
        result = {"backbone": arguments.backbone, **machine, "rows": records, "peak_memory_mb": memory}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
