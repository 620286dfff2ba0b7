"""--split: every graph of a directory also as two, proven as one engine with the backbone on every frame."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from brixel_edge.commands.export_job import Job
from brixel_edge.errors import BuildError
from brixel_edge.export.facts import FileFacts
from brixel_edge.export.gate import passed
from brixel_edge.export.graph.census import census_of_file
from brixel_edge.export.graph.cut import write_halves
from brixel_edge.export.judges import OpenVinoJudge, OrtJudge
from brixel_edge.export.prove import Prover
from brixel_edge.model.bundle import graph_name
from brixel_edge.model.graph_facts import graph_facts
from brixel_edge.model.receipt_sections import Halves
from brixel_edge.model.spec import Precision
from brixel_edge.proof.references import Outputs
from brixel_edge.runtimes.backends.halves import open_half
from brixel_edge.runtimes.economy import EconomicRuntime
from brixel_edge.runtimes.engines import backends_of_graph, has_backend
from brixel_edge.runtimes.runtime import RuntimeSettings

# Two halves are two plans to an engine's optimiser: what it fuses across the cut rounds differently.
_ROUNDING = {"fp32": 1e-5}
_HALF_ROUNDING = 1e-2


def halves_of_graphs(job: Job, folder: Path, prover: Prover) -> dict[str, FileFacts]:
    """Cut every graph in a folder that a CPU backend here runs, and prove both halves together.

    Returns:
        what is known of them, by the adapter's file name.

    Raises:
        BuildError: a graph cannot be cut, or its halves compute something else than it does.
        GateMissedError: they do not compute what PyTorch does.
    """
    facts: dict[str, FileFacts] = {}
    like = folder / graph_name("fp32")
    for graph in sorted(folder.glob("graph.*.onnx")):
        backend = next((name for name in backends_of_graph(graph.name) if has_backend(name)), None)
        if backend is None:
            continue
        backbone, adapter = write_halves(graph, like if like.is_file() else None)
        job.say(f"comparing {backbone.name} and {adapter.name} with PyTorch and with {graph.name}")
        outputs = _outputs(backbone, adapter, backend, prover)
        judge = OrtJudge() if backend == "ort" else OpenVinoJudge()
        precision = cast(Precision, graph.name.split(".")[1])
        error = _error_of_halves(graph.name, precision, outputs, judge.outputs(graph, prover.photographs.pixels))
        report = prover.compare(outputs)
        facts[adapter.name] = FileFacts(
            census=census_of_file(adapter),
            precisions=graph_facts(adapter).operator_types,
            parity=passed(adapter.name, precision, {judge.name: report}, prover.photographs.names),
            halves=Halves(
                graph=graph.name, backbone=backbone.name, backend=judge.name, error=error, images=len(outputs)
            ),
        )
    return facts


def _outputs(backbone: Path, adapter: Path, backend: str, prover: Prover) -> list[Outputs]:
    """What both give together for each photograph."""
    settings = RuntimeSettings()
    runtime = EconomicRuntime(*(open_half(path, backend, settings)[0] for path in (backbone, adapter)), every=1)
    try:
        return [runtime.infer(image) for image in prover.photographs.pixels]
    finally:
        runtime.close()


def _error_of_halves(name: str, precision: str, halves: list[Outputs], whole: list[Outputs]) -> float:
    """The largest relative error of halves against their graph; 0 where every output is equal to the bit.

    Raises:
        BuildError: it is above rounding.
    """
    bound = _ROUNDING.get(precision, _HALF_ROUNDING)
    errors = [0.0]
    for one, other in zip(halves, whole, strict=True):
        for output, values in other.items():
            expected = values.astype(np.float64)
            error = float(np.linalg.norm(one[output] - expected) / max(float(np.linalg.norm(expected)), 1e-30))
            if not error <= bound:
                raise BuildError(f"the halves of {name} differ from it by {error:.1e} of {output}, at most {bound:.0e}")
            errors.append(error)
    return max(errors)
