"""Whether INT8 pays: timed beside the float engines of the same directory, on this machine. No torch, no onnx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from brixel_edge.calib.choice.speed import speed_verdict
from brixel_edge.errors import BuildError
from brixel_edge.model.receipt_sections import BenchRow, Int8Speed
from brixel_edge.model.spec import ModelSpec
from brixel_edge.runtimes.bench.bench import measure, require_measured
from brixel_edge.runtimes.engines import engines_of_folder


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
