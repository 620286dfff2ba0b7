"""INT8 for brixel-export: quantise the proven fp32 graph, prove the result against PyTorch, keep it only if it pays."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brixel_edge.errors import BuildError
from brixel_edge.model.bundle import graph_name
from brixel_edge.model.json_form import fields_from_json
from brixel_edge.model.receipt_sections import Int8, Int8Cost, Int8Speed

if TYPE_CHECKING:
    from brixel_edge.calib.frames import FrameStore
    from brixel_edge.commands.export_engines import TensorRtMaker
    from brixel_edge.export.bundle_from_student import Stage
    from brixel_edge.export.judges import Backend
    from brixel_edge.runtimes.bench.bench import Row

ORT_GRAPH, QDQ_GRAPH = "graph.int8.ort.onnx", "graph.int8.onnx"
# Of the report of a quantisation, what differs from run to run.
_MEASURED = ("seconds", "peak_rss_bytes")


@dataclass(frozen=True, kw_only=True)
class Int8Finish:
    """Adds INT8 to a directory that has its float graphs.

    Attributes:
        frames: of calibration, at the graph's size; None quantises dynamically, for ONNX Runtime alone.
        seed: of all that is random.
        min_speedup: what INT8 must gain over the fastest float engine of this machine; 0 takes any.
        engines: builds the TensorRT engine; None makes graphs for the CPU backends.
    """

    frames: FrameStore | None
    seed: int
    min_speedup: float
    engines: TensorRtMaker | None = None

    def __call__(self, stage: Stage) -> None:
        """Quantise, prove, judge.

        Raises:
            ParityError: no plan reaches the bounds, or PyTorch's features.
            BuildError: a backend runs it in floating point, or it is too slow to be of use.
        """
        targets = self._targets()
        stage.workshop.progress(f"quantising for {', '.join(targets)}")
        record = self._dynamic(stage.folder) if self.frames is None else self._static(stage.folder, targets)
        kept = {key: value for key, value in record.items() if key not in _MEASURED}
        stage.sections["int8"] = fields_from_json(Int8, kept, "int8")
        measured = stage.sections.setdefault("measured", {})
        measured["int8"] = Int8Cost(**{key: record[key] for key in _MEASURED if key in record})
        for target in targets:
            self._prove(stage, target)
        verdict = self._judge(stage)
        stage.sections["measured"]["int8_speed"] = verdict

    def _targets(self) -> tuple[Any, ...]:
        if self.engines is not None:
            return ("trt",)
        has_openvino = importlib.util.find_spec("openvino") is not None
        return ("ort", "openvino") if has_openvino and self.frames is not None else ("ort",)

    def _static(self, folder: Path, targets: tuple[Any, ...]) -> dict[str, Any]:
        from brixel_edge.calib.quantize import Settings, quantize

        assert self.frames is not None
        settings = Settings(targets=targets, seed=self.seed, threads=os.cpu_count() or 1)
        report = quantize(folder / graph_name("fp32"), self.frames, out_dir=folder, settings=settings)
        return {"kind": "static", **report.to_json()}

    def _dynamic(self, folder: Path) -> dict[str, Any]:
        from brixel_edge.calib.lowering.dynamic import quantize_dynamic

        linears = quantize_dynamic(folder / graph_name("fp32"), folder / ORT_GRAPH)
        return {"kind": "dynamic", "int8_nodes": len(linears), "files": [ORT_GRAPH]}

    def _prove(self, stage: Stage, target: str) -> None:
        """Against PyTorch, on the backend that will run it."""
        from brixel_edge.export.judges import OpenVinoBackend, OrtBackend, RoundingBackend

        name = ORT_GRAPH if target == "ort" else QDQ_GRAPH
        backend: Backend = OpenVinoBackend() if target == "openvino" else OrtBackend()
        plan = stage.workshop.made
        if self.engines is not None and plan is not None and plan.precision != "fp32":
            stage.add({name: {"islands": stage.workshop.type_surroundings(stage.folder / name, plan)}})
            backend = RoundingBackend()
        sampler = stage.sections["samplers"][graph_name("fp32")]
        stage.add_graph(name, "int8", (backend,), sampler)
        if self.engines is not None:
            stage.add_engine(self.engines, name, "int8")

    def _judge(self, stage: Stage) -> Int8Speed:
        """Whether it is worth it, by calls taken in turn with the float engines' on this machine."""
        from brixel_edge.calib.choice.speed import speed_verdict
        from brixel_edge.runtimes.bench.bench import measure, require_measured
        from brixel_edge.runtimes.engines import engines_of_folder

        stage.workshop.progress("timing int8 beside the float engines")
        engines = engines_of_folder(stage.folder, stage.spec)
        if self.engines is not None:
            engines = [engine for engine in engines if engine.backend == "trt"]
        rows = measure(engines)
        require_measured(rows)
        integer, floating = _latencies(rows)
        if not integer or not floating:
            raise BuildError(f"int8 cannot be timed here: {'; '.join(str(row.error) for row in rows if row.error)}")
        verdict = speed_verdict(min(integer.values()), floating, min_speedup=self.min_speedup)
        if not verdict.accepted:
            raise BuildError(f"{verdict.message}, or --min-speedup 0 to keep it")
        return Int8Speed(int8_ms=integer, float_ms=floating, speedup=verdict.speedup, message=verdict.message)


def _latencies(rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of INT8 and of float engines by name [ms]."""
    medians = {row.name: row.p50_ms for row in rows if row.p50_ms is not None}
    integer = {name: value for name, value in medians.items() if "int8" in name}
    return integer, {name: value for name, value in medians.items() if name not in integer}
