"""INT8 for brixel-export: quantise the proven fp32 graph, prove the result against PyTorch, keep it only if it pays."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from brixel_edge.calib.choice.speed import speed_verdict
from brixel_edge.calib.frames import FrameStore
from brixel_edge.calib.lowering.dynamic import quantize_dynamic
from brixel_edge.calib.lowering.targets import Int8Target
from brixel_edge.calib.quantize import Settings, quantize
from brixel_edge.errors import BuildError
from brixel_edge.export.facts import FileFacts
from brixel_edge.export.float_graphs import FloatGraphs
from brixel_edge.export.judges import OpenVinoJudge, OrtJudge, RoundingJudge
from brixel_edge.model.bundle import ORT_INT8_NAME, graph_name
from brixel_edge.model.json_form import fields_from_json
from brixel_edge.model.receipt_sections import BenchRow, Int8, Int8Cost, Int8Speed, Lowering
from brixel_edge.model.spec import ModelSpec
from brixel_edge.runtimes.bench.bench import measure, require_measured
from brixel_edge.runtimes.engines import engines_of_folder


def int8_targets(*, has_frames: bool, for_tensorrt: bool) -> tuple[Int8Target, ...]:
    """What the INT8 graphs are for; without frames they are quantised dynamically, for ONNX Runtime alone."""
    if for_tensorrt:
        return ("trt",)
    has_openvino = importlib.util.find_spec("openvino") is not None
    return ("ort", "openvino") if has_openvino and has_frames else ("ort",)


def quantized(
    folder: Path,
    frames: FrameStore | None,
    targets: tuple[Int8Target, ...],
    seed: int,
    *,
    cache: Path | None,
    prove: Callable[[Int8Target], tuple[Path, FileFacts]],
) -> tuple[Int8, Int8Cost, dict[Path, FileFacts]]:
    """Write the INT8 graphs of the fp32 graph in a folder, proven; a plan that fails the proof is followed by another.

    Args:
        folder: of the graphs.
        frames: of calibration; None quantises dynamically.
        targets: what the graphs are for.
        seed: of all that is random.
        cache: folder of earlier calibrations.
        prove: compares a target's graph with PyTorch; raises ParityError.

    Returns:
        how it was done, what it took, and the facts of each graph.

    Raises:
        ParityError: no choice of layers reaches the bounds.
        BuildError: a backend runs the result in floating point.
    """
    graph, facts = folder / graph_name("fp32"), dict[Path, FileFacts]()

    def require(target: Int8Target) -> None:
        path, found = prove(target)
        facts[path] = found

    if frames is None:
        linears = quantize_dynamic(graph, folder / ORT_INT8_NAME)
        require("ort")
        return Int8(kind="dynamic", int8_nodes=len(linears), files=(ORT_INT8_NAME,)), Int8Cost(), facts
    settings = Settings(targets=targets, seed=seed, threads=os.cpu_count() or 1, cache=cache)
    record = quantize(graph, frames, out_dir=folder, settings=settings, require=require).to_json()
    cost = Int8Cost(**{name: record.pop(name) for name in ("seconds", "peak_rss_bytes", "curve_ms")})
    return fields_from_json(Int8, {"kind": "static", **record}, "int8"), cost, facts


def proven_int8(folder: Path, lowering: Lowering, graphs: FloatGraphs, target: Int8Target) -> tuple[Path, FileFacts]:
    """Prove an INT8 graph on what will run it; TensorRT's takes the types of the float lowering around its integers.

    Raises:
        BuildError: it holds what it may not, or a backend refuses it.
        GateMissedError: it does not compute what PyTorch does.
    """
    path = folder / (ORT_INT8_NAME if target == "ort" else graph_name("int8"))
    judge = OpenVinoJudge() if target == "openvino" else OrtJudge()
    islands = None
    if target == "trt" and lowering.precision != "fp32":
        islands, judge = graphs.type_surroundings(path, lowering), RoundingJudge()
    facts = graphs.prover.graph(path, "int8", lowering.sampler, (judge,))
    return path, replace(facts, islands=islands)


def int8_speed(folder: Path, spec: ModelSpec, min_speedup: float, *, for_tensorrt: bool) -> Int8Speed:
    """Time INT8 and the float engines in turn, on this machine.

    Raises:
        BuildError: nothing can be timed, or INT8 does not gain `min_speedup`.
    """
    engines = [entry for entry in engines_of_folder(folder, spec) if not for_tensorrt or entry.backend == "trt"]
    rows = measure(engines)
    require_measured(rows)
    integer, floating = _latencies(rows)
    if not integer or not floating:
        raise BuildError(f"int8 cannot be timed here: {'; '.join(str(row.error) for row in rows if row.error)}")
    verdict = speed_verdict(min(integer.values()), floating, min_speedup=min_speedup)
    if not verdict.accepted:
        raise BuildError(f"{verdict.message}, or --min-speedup 0 to keep it")
    return Int8Speed(int8_ms=integer, float_ms=floating, speedup=verdict.speedup, message=verdict.message)


def _latencies(rows: Sequence[BenchRow]) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of INT8 and of float engines by name [ms]."""
    medians = {row.name: row.p50_ms for row in rows if row.p50_ms is not None}
    integer = {name: value for name, value in medians.items() if "int8" in name}
    return integer, {name: value for name, value in medians.items() if name not in integer}
