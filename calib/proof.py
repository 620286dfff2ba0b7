"""Does an INT8 graph still give what the float graph gives? On the real backend, with the kernels that ran counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from brixel_edge.calib.engines import Engine, EngineName, OpenVinoEngine, OrtEngine
from brixel_edge.calib.frames import Image
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.lowering.kernels import KernelCount, count_kernels, require_integers
from brixel_edge.calib.lowering.targets import Int8Target
from brixel_edge.calib.ranges.smooth import require_same_function
from brixel_edge.errors import SpecError
from brixel_edge.proof.parity import GATES, ParityReport, compare_cells
from brixel_edge.proof.probe import Array, probe_agreement, sampled_cells


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the INT8 graph must reach on frames that nothing was fitted to.

    Attributes:
        mean: cosine of a cell, mean.
        p01: cosine that 1 % of the cells may fall below.
        agreement: of a linear probe, share of cells.
    """

    mean: float = GATES["int8"].cosine_mean
    p01: float = GATES["int8"].cosine_p01
    agreement: float = 0.97

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 < value < 1:
                raise SpecError(f"INT8 bound {name}={value} is not between 0 and 1; for instance mean=0.995")


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """How close one output is to the float graph's.

    Attributes:
        parity: cell by cell.
        agreement: share of cells where a linear probe says the same.
    """

    parity: ParityReport
    agreement: float

    def shortfalls(self, output: str, bounds: Bounds) -> list[str]:
        """The bounds that it misses, in words."""
        found = {"mean": self.parity.cosine_mean, "p01": self.parity.cosine_p01, "agreement": self.agreement}
        asked = asdict(bounds)
        return [
            f"{name} of {output} is {value:.4f}, asked {asked[name]}"
            for name, value in found.items()
            if not value >= asked[name]
        ]


@dataclass(frozen=True, kw_only=True)
class Proven:
    """One target's graph and what was measured of it.

    Attributes:
        target: the backend it is for.
        file: name of the graph.
        verified_on: backend that ran it; for TensorRT the numbers are a simulation in ONNX Runtime.
        outputs: output -> comparison with the float graph on frames that nothing was fitted to.
        kernels: that ran; None for TensorRT.
    """

    target: Int8Target
    file: str
    verified_on: EngineName
    outputs: Mapping[str, Closeness]
    kernels: KernelCount | None

    def shortfalls(self, bounds: Bounds) -> list[str]:
        """The bounds that it misses, in words; empty when it passes."""
        return [text for output, found in self.outputs.items() for text in found.shortfalls(output, bounds)]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "target": self.target,
            "file": self.file,
            "verified_on": self.verified_on,
            "fidelity": {
                output: {**found.parity.to_json(), "agreement": found.agreement}
                for output, found in self.outputs.items()
            },
            "census": self.kernels.to_json() if self.kernels else None,
        }


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Frames that nothing was fitted to, and what the float graph gives on them.

    Attributes:
        frames: uint8 (1, H, W, 3).
        reference: output -> compared cells of every frame.
        seed: of the probe.
        threads: of inference.
    """

    frames: Sequence[Image] = field(repr=False)
    reference: Mapping[str, Sequence[Array]] = field(repr=False)
    seed: int
    threads: int

    def open(self, target: Int8Target, path: Path) -> Engine:
        """The engine that runs a target's graph here."""
        is_openvino = target == "openvino"
        return OpenVinoEngine(path, threads=self.threads) if is_openvino else OrtEngine(path, threads=self.threads)

    def cells(self, engine: Engine) -> dict[str, list[Array]]:
        """What another graph gives on the same cells."""
        return cells_over(engine, self.frames, list(self.reference))

    def count_kernels(self, engine: EngineName, path: Path) -> KernelCount:
        """What runs on the first frame."""
        return count_kernels(engine, path, self.frames[0], threads=self.threads)

    def prove(self, target: Int8Target, path: Path, *, expected: int) -> Proven:
        """Run a lowered graph on its backend and compare.

        Args:
            target: the backend.
            path: the graph.
            expected: integer kernels that the plan asks for.

        Raises:
            BuildError: the backend ran fewer integer kernels than planned.
        """
        kernels = None
        if target != "trt":
            kernels = self.count_kernels(target, path)
            require_integers(kernels, expected)
        cells = self.cells(self.open(target, path))
        return Proven(
            target=target,
            file=path.name,
            verified_on="openvino" if target == "openvino" else "ort",
            outputs={
                name: Closeness(
                    parity=compare_cells(reference, cells[name]),
                    agreement=probe_agreement(reference, cells[name], seed=self.seed),
                )
                for name, reference in self.reference.items()
            },
            kernels=kernels,
        )


def cells_over(engine: Engine, frames: Sequence[Image], outputs: Sequence[str]) -> dict[str, list[Array]]:
    """Compared cells of every output over frames."""
    gathered: dict[str, list[Array]] = {name: [] for name in outputs}
    for frame in frames:
        values = engine.run(frame)
        for name in outputs:
            gathered[name].append(sampled_cells(values[name]))
    return gathered


def judge_from_float(graph: Graph, smoothed: Graph, frames: Sequence[Image], *, seed: int, threads: int) -> Judge:
    """Run the float graph on the judging frames, after a check that smoothing left the function alone.

    Raises:
        BuildError: it did not.
    """
    engine = OrtEngine(graph.serialized(), threads=threads)
    before = engine.run(frames[0])
    after = OrtEngine(smoothed.serialized(), threads=threads).run(frames[0])
    require_same_function({name: before[name] for name in graph.float_outputs}, after)
    return Judge(frames=frames, reference=cells_over(engine, frames, graph.float_outputs), seed=seed, threads=threads)
