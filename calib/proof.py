"""Does an INT8 graph still give what the float graph gives? On the real backend, with the kernels that ran counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from brixel_edge.calib.cells import class_agreements, compared_cells, head_of_graph
from brixel_edge.calib.engines import Engine, EngineName, OpenVinoEngine, OrtEngine
from brixel_edge.calib.frames import Image
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.lowering.kernels import KernelCount, count_kernels, require_integers
from brixel_edge.calib.lowering.targets import Int8Target
from brixel_edge.calib.ranges.smooth import require_same_function
from brixel_edge.errors import SpecError
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.model.spec import ANSWER, FEATURES
from brixel_edge.proof.confidence import LowerBounds, lower_bounds
from brixel_edge.proof.parity import GATES, ParityReport, compare_cells, cosines
from brixel_edge.proof.probe import Array, probe_agreements


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the INT8 graph must reach on frames that nothing was fitted to.

    Attributes:
        mean: cosine of a cell, mean; its lower confidence bound must reach it, as those of the next two.
        p01: cosine that 1 % of the cells may fall below, on sources that the judging frames do not show.
        agreement: of a linear probe, share of cells.
        frobenius: relative error that may not be exceeded.
        norm: relative error of a cell's length that no cell may exceed.
        answer_agreement: of a head's classes: share of cells that keep theirs.
        answer_error: of a head's answers: relative error that may not be exceeded.
    """

    mean: float = GATES["int8"].cosine_mean
    p01: float = GATES["int8"].cosine_p01
    agreement: float = 0.97
    frobenius: float = GATES["int8"].frobenius
    norm: float = GATES["int8"].norm
    answer_agreement: float = GATES["int8"].answers.agreement
    answer_error: float = GATES["int8"].answers.error

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
        lower: what the figures may be on other frames of the same kind.
    """

    parity: ParityReport
    agreement: float
    lower: LowerBounds

    def shortfalls(self, output: str, bounds: Bounds) -> list[str]:
        """The bounds that it misses, in words."""
        if output == ANSWER:
            return self._answer_shortfalls(bounds)
        asked = asdict(bounds)
        lows = {"mean": self.lower.mean, "p01": self.lower.p01_elsewhere, "agreement": self.lower.agreement}
        highs = {"frobenius": self.parity.frobenius, "norm": self.parity.norm_error}
        return [
            f"{name} of {output} is at least {value:.4f} at {self.lower.confidence:.0%} confidence, asked {asked[name]}"
            for name, value in lows.items()
            if not value >= asked[name]
        ] + [
            f"{name} error of {output} is {value:.4f}, allowed {asked[name]}"
            for name, value in highs.items()
            if not value <= asked[name]
        ]

    def _answer_shortfalls(self, bounds: Bounds) -> list[str]:
        """Classes, or the error where there are none; the head's own gate follows on the proof's photographs."""
        missed = []
        if not self.lower.agreement >= bounds.answer_agreement:
            missed.append(
                f"{self.lower.agreement:.4f} of the cells keep their class at {self.lower.confidence:.0%} confidence, "
                f"asked {bounds.answer_agreement}"
            )
        if not self.parity.frobenius <= bounds.answer_error:
            missed.append(f"error of {ANSWER} is {self.parity.frobenius:.4f}, allowed {bounds.answer_error}")
        return missed

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**self.parity.to_json(), "agreement": self.agreement, "lower": asdict(self.lower)}


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
            "fidelity": {output: found.to_json() for output, found in self.outputs.items()},
            "census": self.kernels.to_json() if self.kernels else None,
        }


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Frames that did not calibrate, and what the float graph gives on them.

    Attributes:
        frames: uint8 (1, H, W, 3).
        groups: by frame; those of one group show the same thing.
        reference: output -> compared cells of every frame.
        seed: of the probe and of the bounds' draws.
        threads: of inference.
        head: of the graph; None without one.
    """

    frames: Sequence[Image] = field(repr=False)
    groups: Sequence[int] = field(repr=False)
    reference: Mapping[str, Sequence[Array]] = field(repr=False)
    seed: int
    threads: int
    head: HeadSpec | None = None

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
            outputs={name: self.closeness(reference, cells[name], name) for name, reference in self.reference.items()},
            kernels=kernels,
        )

    def closeness(self, reference: Sequence[Array], candidate: Sequence[Array], output: str = FEATURES) -> Closeness:
        """Compare the cells of this judge's frames; of a head's answers the classes, where it has some."""
        parity = compare_cells(reference, candidate)
        if output != ANSWER or self.head is None:
            shares = probe_agreements(reference, candidate, seed=self.seed)
        elif self.head.has_classes:
            shares = class_agreements(list(reference), list(candidate))
        else:
            shares = [1.0] * len(reference)
        return Closeness(
            parity=parity,
            agreement=float(np.average(shares, weights=[len(cells) for cells in reference])),
            lower=lower_bounds(
                [cosines(a, b) for a, b in zip(reference, candidate, strict=True)],
                shares,
                self.groups,
                seed=self.seed,
            ),
        )

    def joined(self, other: Judge) -> Judge:
        """With the frames of another."""
        return Judge(
            frames=[*self.frames, *other.frames],
            groups=[*self.groups, *other.groups],
            reference={name: [*cells, *other.reference[name]] for name, cells in self.reference.items()},
            seed=self.seed,
            threads=self.threads,
            head=self.head,
        )


def cells_over(engine: Engine, frames: Sequence[Image], outputs: Sequence[str]) -> dict[str, list[Array]]:
    """Compared cells of every output over frames."""
    gathered: dict[str, list[Array]] = {name: [] for name in outputs}
    for frame in frames:
        values = engine.run(frame)
        for name in outputs:
            gathered[name].append(compared_cells(name, values[name]))
    return gathered


def judge_from_float(graph: Graph, frames: Sequence[Image], groups: Sequence[int], *, seed: int, threads: int) -> Judge:
    """Run the float graph on judging frames."""
    engine = OrtEngine(graph.serialized(), threads=threads)
    reference = cells_over(engine, frames, graph.float_outputs)
    head = head_of_graph(graph)
    return Judge(frames=frames, groups=groups, reference=reference, seed=seed, threads=threads, head=head)


def require_smoothing_left_the_function(graph: Graph, smoothed: Graph, frame: Image, *, threads: int) -> None:
    """Run both on a frame.

    Raises:
        BuildError: they differ.
    """
    before = OrtEngine(graph.serialized(), threads=threads).run(frame)
    after = OrtEngine(smoothed.serialized(), threads=threads).run(frame)
    require_same_function({name: before[name] for name in graph.float_outputs}, after)
