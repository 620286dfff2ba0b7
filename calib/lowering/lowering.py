"""From a plan to files, and what became of them: which graph for which backend, verified there, kernels counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from brixel_edge.calib.choice.plan import Bounds
from brixel_edge.calib.frames import Frame
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import Layer
from brixel_edge.calib.lowering.engines import Engine, EngineName, OpenVinoEngine, OrtEngine
from brixel_edge.calib.lowering.kernels import Census, require_integers, take_census
from brixel_edge.calib.lowering.ort_lowering import ort_graph
from brixel_edge.calib.lowering.qdq import qdq_graph
from brixel_edge.calib.ranges.calibration import Calibration
from brixel_edge.proof.probe import Array, Fidelity, cells_of, compare

Target = Literal["ort", "openvino", "trt"]
# OpenVINO and TensorRT read the same file.
GRAPH_NAMES: dict[Target, str] = {"ort": "graph.int8.ort.onnx", "openvino": "graph.int8.onnx", "trt": "graph.int8.onnx"}
Cells = dict[str, list[Array]]


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """One target's graph and what was measured of it.

    Attributes:
        target: the backend it is for.
        file: name of the graph.
        verified_on: backend that ran it; for TensorRT the numbers are a simulation in ONNX Runtime.
        fidelity: output -> comparison with the float graph on frames that nothing was fitted to.
        census: kernels that ran; None for TensorRT.
    """

    target: Target
    file: str
    verified_on: EngineName
    fidelity: Mapping[str, Fidelity]
    census: Census | None

    def shortfalls(self, bounds: Bounds) -> list[str]:
        """The bounds that it misses, in words; empty when it passes."""
        return [
            f"{name} of {output} is {getattr(found, name):.4f}, asked {getattr(bounds, name)}"
            for output, found in self.fidelity.items()
            for name in ("mean", "p01", "agreement")
            if not getattr(found, name) >= getattr(bounds, name)
        ]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "target": self.target,
            "file": self.file,
            "verified_on": self.verified_on,
            "fidelity": {output: found.to_json() for output, found in self.fidelity.items()},
            "census": self.census.to_json() if self.census else None,
        }


def write_lowering(
    target: Target,
    smoothed: Graph,
    layers: Sequence[Layer],
    integers: frozenset[str],
    calibration: Calibration,
    path: Path,
) -> Path:
    """Write the graph of a backend with the nodes named in `integers` in INT8.

    Args:
        target: the backend.
        smoothed: float graph after smoothing.
        layers: of the float graph.
        integers: names of nodes.
        calibration: ranges and shifts.
        path: file to write.
    """
    entries = calibration.integer_layers(layer for layer in layers if layer.name in integers)
    lowered = ort_graph(smoothed, entries, calibration.ranges) if target == "ort" else qdq_graph(smoothed, entries)
    return lowered.save(path)


def open_lowering(target: Target, path: Path, *, threads: int) -> Engine:
    """The engine that runs a target's graph here."""
    return OpenVinoEngine(path, threads=threads) if target == "openvino" else OrtEngine(path, threads=threads)


def cells_over(engine: Engine, frames: Sequence[Frame], outputs: Sequence[str]) -> Cells:
    """Compared cells of every output over frames."""
    gathered: Cells = {name: [] for name in outputs}
    for frame in frames:
        values = engine.run(frame)
        for name in outputs:
            gathered[name].append(cells_of(values[name]))
    return gathered


def verify_lowering(
    target: Target, path: Path, frames: Sequence[Frame], reference: Cells, *, expected: int, seed: int, threads: int
) -> Lowered:
    """Run a lowered graph on its backend and compare.

    Args:
        target: the backend.
        path: the graph.
        frames: uint8 (1, H, W, 3), disjoint from all that was fitted.
        reference: the float graph's cells on them.
        expected: integer kernels that the plan asks for.
        seed: of the probe.
        threads: of inference.

    Raises:
        BuildError: the backend ran fewer integer kernels than planned.
    """
    census = None
    if target != "trt":
        census = take_census(target, path, frames[0], threads=threads)
        require_integers(census, expected)
    cells = cells_over(open_lowering(target, path, threads=threads), frames, list(reference))
    return Lowered(
        target=target,
        file=path.name,
        verified_on="openvino" if target == "openvino" else "ort",
        fidelity={name: compare(reference[name], cells[name], seed=seed) for name in reference},
        census=census,
    )
