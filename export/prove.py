"""Proves the files of one model at one size: what they compute against what PyTorch computes, on photographs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from brixel_edge.errors import ParityError
from brixel_edge.export.graph.census import assert_census
from brixel_edge.export.graph.reference import reference_features
from brixel_edge.export.judges import Features, Judge
from brixel_edge.export.ladder import GateMissedError
from brixel_edge.model.graph_facts import graph_facts
from brixel_edge.model.json_form import fields_from_json
from brixel_edge.model.receipt_sections import Census, EngineCost, EngineRecord, Islands, Parity
from brixel_edge.model.spec import ModelSpec, Precision, SamplerKind
from brixel_edge.network.student import Student
from brixel_edge.proof.parity import check_gate, compare


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Named images, (1, H, W, 3) uint8 each at the graph's size."""

    names: Sequence[str]
    pixels: Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What the receipt says of a file, as far as it concerns that kind of file.

    Attributes:
        sampler: lowering of deformable sampling, of a graph.
        census: of a graph.
        precisions: of a graph: operator, type that it computes in, nodes.
        islands: of a half-precision graph.
        parity: None for an engine that cannot run here.
        engine: of an engine.
        cost: of building an engine.
    """

    sampler: SamplerKind | None = None
    census: Census | None = None
    precisions: dict[str, dict[str, int]] | None = None
    islands: Islands | None = None
    parity: Parity | None = None
    engine: EngineRecord | None = None
    cost: EngineCost | None = None


@dataclass(frozen=True, kw_only=True)
class Product:
    """Files that were made, and what is known of those that were proven."""

    files: tuple[Path, ...]
    facts: dict[str, FileFacts]

    @property
    def parity(self) -> dict[str, Parity]:
        """By file, where it was measured."""
        return {name: facts.parity for name, facts in self.facts.items() if facts.parity is not None}


@dataclass(kw_only=True)
class Stopwatch:
    """Seconds by kind of work."""

    begin_s: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Add what the block takes."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - start_s

    def rounded(self) -> dict[str, float]:
        """For the receipt, with the total since it was made."""
        spent = {kind: round(seconds, 3) for kind, seconds in sorted(self.seconds.items())}
        return {**spent, "total": round(time.perf_counter() - self.begin_s, 3)}


@dataclass(kw_only=True)
class Prover:
    """The gate.

    Attributes:
        student: in evaluation mode.
        spec: of the model.
        photographs: that are compared.
        watch: is told what it takes.
        say: called with one line per step.
    """

    student: Student
    spec: ModelSpec
    photographs: Photographs
    watch: Stopwatch
    say: Callable[[str], None]

    @cached_property
    def references(self) -> list[NDArray[np.float32]]:
        """What PyTorch computes for the photographs."""
        with self.watch.timed("reference"):
            return reference_features(self.student, self.spec, self.photographs.pixels)

    def graph(self, path: Path, precision: Precision, sampler: SamplerKind, judges: Sequence[Judge]) -> FileFacts:
        """Count a graph, run it on every judge and compare; the first decides what stands at the record's top.

        Raises:
            BuildError: it holds what it may not, or a judge refuses it.
            GateMissedError: it does not compute what PyTorch does.
        """
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        census = assert_census(model, precision)
        self.say(f"comparing {path.name} with PyTorch on {len(self.photographs.pixels)} photographs")
        with self.watch.timed("parity"):
            features = {judge.name: judge.features(path, self.photographs.pixels) for judge in judges}
        return FileFacts(
            sampler=sampler,
            census=census,
            precisions=graph_facts(path).operator_types,
            parity=self.parity(path, precision, features),
        )

    def parity(self, path: Path, precision: Precision, features: dict[str, Features]) -> Parity:
        """Compare a file's features, by what ran it.

        Raises:
            GateMissedError: one of them misses the gate of the precision.
        """
        reports = {name: compare(self.references, candidates) for name, candidates in features.items()}
        figures = [{"backend": name, **report.to_json()} for name, report in reports.items()]
        others = {"photographs": list(self.photographs.names), "gate": precision, "also": figures[1:]}
        parity = fields_from_json(Parity, {**figures[0], **others})
        for name, report in reports.items():
            try:
                check_gate(report, precision, f"{path.name} ({name})")
            except ParityError as error:
                raise GateMissedError(str(error), {path.name: parity}) from error
        return parity
