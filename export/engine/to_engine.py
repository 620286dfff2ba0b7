"""ONNX -> TensorRT plan, in a process of its own.

The graph already holds its precision; the builder compiles it and may not choose another. A plan appears under its
name only when it is whole: `engine.<sm>.<trt>.<precision>.plan`, a plain TensorRT plan, with a report beside it.
Knows nothing of parity; whoever calls compares the engine with the reference.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brixel_edge.errors import BackendMissing, BrixelError, BuildError, BundleError, MemoryBudgetError, SpecError
from brixel_edge.export.engine.memory import LEVERS
from brixel_edge.export.engine.progress import BuildProgress, default_progress
from brixel_edge.export.engine.settings import BuildRequest, EngineSettings
from brixel_edge.machine.tensorrt import EngineKind
from brixel_edge.model.engine_file import EngineReport, report_path
from brixel_edge.model.graph_facts import GraphFacts, graph_facts
from brixel_edge.model.spec import ModelSpec, Precision

_STDERR_LINES = 3
_SIGKILL = 9  # by number: Windows has no name for it


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A plan on disk and its report, here with what was measured."""

    plan: Path
    report: EngineReport


def engine_from_onnx(
    graph: Path,
    spec: ModelSpec | None = None,
    *,
    precision: Precision,
    out: Path,
    kind: EngineKind = "trt",
    settings: EngineSettings | None = None,
    progress: Callable[[], BuildProgress] = default_progress,
) -> BuiltEngine:
    """Compile one graph for this machine's GPU, or with `trt-rtx` ahead of time for named desktop cards.

    Args:
        graph: ONNX file of the wanted precision.
        spec: of the model; the graph must take its image. None checks only that it takes one.
        precision: what the engine is called; refused if the graph is of another.
        out: folder for the plan and its report.
        kind: TensorRT or TensorRT-RTX.
        settings: of the build; None takes the defaults.
        progress: called once; what it gives is called with every event of the build (default: a bar on stderr).

    Raises:
        BundleError: no ONNX graph.
        SpecError: a graph of another precision or image than asked for.
        BackendMissing: TensorRT, cuda-python or a GPU is not there.
        BuildError: TensorRT refused.
        MemoryBudgetError: it takes more memory than allowed or than there is.
    """
    facts = graph_facts(graph)
    check_graph(graph, facts, precision, spec)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".engine.", dir=out) as folder:
        part = Path(folder) / "plan"
        request = BuildRequest(
            graph=graph.resolve(),
            plan=part.resolve(),
            kind=kind,
            precision=precision,
            settings=_with_cache_folder(settings or EngineSettings(), out),
        )
        report = EngineReport.from_json(_run(request, Path(folder), progress()))
        plan = out / report.identity.file_name
        written = Path(folder) / "report"
        written.write_text(json.dumps(report.without_measured().to_json(), indent=2) + "\n", encoding="utf-8")
        # The report first: a plan is never without one.
        written.replace(report_path(plan))
        part.replace(plan)
    return BuiltEngine(plan=plan, report=report)


def check_graph(graph: Path, facts: GraphFacts, precision: Precision, spec: ModelSpec | None) -> None:
    """Refuse a graph that is not of the precision asked for, or that takes another image.

    Raises:
        SpecError: one of these.
    """
    if precision not in facts.precisions:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(facts.arithmetic_types.items()))
        missing = "no QuantizeLinear" if precision == "int8" else f"nothing that says {precision}"
        raise SpecError(
            f"{graph.name} is a {' and '.join(facts.precisions)} graph (nodes: {found}) with {missing}; "
            f"precision lives in the graph: give graph.{precision}.onnx, or use --engine trt-{facts.precisions[0]}"
        )
    shapes = {tensor.name: (tensor.dtype, tensor.shape) for tensor in facts.inputs}
    dtype, shape = shapes.get("image", ("missing", ()))
    if len(shapes) != 1 or dtype != "uint8" or len(shape) != 4 or shape[3] != 3 or min(shape, default=-1) < 1:
        raise SpecError(f"{graph.name} takes {shapes}; an engine's only input is image, uint8 (1, H, W, 3), fixed size")
    if spec is not None and shape[1:3] != (spec.image.height, spec.image.width):
        wanted = f"{spec.image.height}x{spec.image.width}"
        raise SpecError(f"{graph.name} takes images of {shape[1]}x{shape[2]}, its spec says {wanted}; export it again")


def _with_cache_folder(settings: EngineSettings, out: Path) -> EngineSettings:
    folder = (settings.timing_cache_dir or out).resolve()
    return EngineSettings.from_json({**settings.to_json(), "timing_cache_dir": str(folder)})


def _run(request: BuildRequest, folder: Path, progress: BuildProgress) -> dict[str, Any]:
    """Run the building process to its end, and give its report as JSON."""
    request_path, stderr_path = folder / "request.json", folder / "stderr.txt"
    request_path.write_text(json.dumps(request.to_json()), encoding="utf-8")
    command = [sys.executable, "-m", "brixel_edge.export.engine.build", str(request_path)]
    # Kernels that are not used are not loaded: some hundred MB less on a board.
    environment = {"CUDA_MODULE_LOADING": "LAZY", **os.environ}
    last: dict[str, Any] = {}
    phase = "start"
    with stderr_path.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            last = json.loads(line)
            phase = last["name"] if last["event"] == "phase" else phase
            progress.on_event(last)
        process.wait()
    finally:
        if process.poll() is None:  # Ctrl-C, or a progress that failed: no orphan may hold the GPU
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        progress.close()
    if last.get("event") == "built":
        return last["report"]
    if last.get("event") == "failed":
        raise _raised(last)
    raise _died(process.returncode, phase, stderr_path.read_text(encoding="utf-8", errors="replace"))


def _raised(event: dict[str, Any]) -> BrixelError:
    kinds = {kind.__name__: kind for kind in (BackendMissing, BundleError, MemoryBudgetError, SpecError)}
    return kinds.get(event["error"], BuildError)(event["message"])


def _died(code: int, phase: str, stderr: str) -> BrixelError:
    """What it means that the building process ended without a word."""
    if "bad_alloc" in stderr:
        return MemoryBudgetError(
            f"the TensorRT build could not get memory in phase {phase!r} (std::bad_alloc); {LEVERS}"
        )
    if code == -_SIGKILL:
        return MemoryBudgetError(
            f"the kernel killed the TensorRT build in phase {phase!r} (SIGKILL): this machine ran out of memory; "
            "close the desktop (sudo systemctl isolate multi-user.target), add 8 GB of swap, lower --opt-level to 2 "
            f"and --workspace to 256MiB, or {LEVERS}"
        )
    lines = [line for line in stderr.splitlines() if line.strip()][-_STDERR_LINES:]
    told = " | ".join(lines) or "it printed nothing"
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return BuildError(
        f"the TensorRT build ended in phase {phase!r} with {how}: {told}; try --opt-level 2 or --sampler gather"
    )
