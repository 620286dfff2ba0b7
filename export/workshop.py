"""Makes and proves the graphs of one model at one size, and keeps what several plans share.

The fp32 graph of a sampler is traced and proven once, whichever plans start from it; ranges are measured once a graph;
the PyTorch reference runs once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from brixel_edge.errors import BrixelError, BuildError, ParityError
from brixel_edge.export.graph.census import assert_census
from brixel_edge.export.graph.fuse import FusedModel
from brixel_edge.export.graph.reference import reference_features
from brixel_edge.export.graph.to_onnx import onnx_from_model
from brixel_edge.export.half.islands import Half, Island, find_islands
from brixel_edge.export.half.ranges import TensorRange, measure_ranges
from brixel_edge.export.half.to_half import half_from_float
from brixel_edge.export.judges import Backend, Features, default_backends
from brixel_edge.export.ladder import GateMissedError
from brixel_edge.model.bundle import graph_name
from brixel_edge.model.engine_file import EngineReport
from brixel_edge.model.graph_facts import graph_facts
from brixel_edge.model.json_form import fields_from_json
from brixel_edge.model.receipt_sections import EngineCost, EngineRecord, IslandLevel, Islands, Lowering, Parity
from brixel_edge.model.spec import ModelSpec, Precision
from brixel_edge.network.deformable import DeformableAttention, SamplerKind
from brixel_edge.network.student import Student
from brixel_edge.proof.parity import check_gate, compare

Images = Sequence[NDArray[np.uint8]]
Progress = Callable[[str], None]
Trace = Callable[[SamplerKind, Path], None]


class EngineMaker(Protocol):
    """Compiles a proven graph for a device, and runs the result if this machine can."""

    def make(self, graph: Path, precision: Precision, out: Path) -> tuple[Path, EngineReport]:
        """Build; gives the engine's file in `out` and its report.

        Raises:
            BuildError: the compiler refused.
        """
        ...

    def features(self, engine: Path, images: Images) -> Features | None:
        """What the engine computes; None where this machine cannot run it (built ahead of time for another)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ProofImages:
    """Photographs.

    Attributes:
        names: file names, for the receipt.
        pixels: (1, H, W, 3) uint8 each, at the graph's size.
    """

    names: Sequence[str]
    pixels: Images


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a plan gave: files in the workshop's folder, and what the receipt says of each."""

    plan: Lowering
    files: tuple[Path, ...]
    facts: dict[str, dict[str, Any]]


@dataclass(kw_only=True)
class Workshop:
    """See the module.

    Attributes:
        folder: for all files that are made.
        student: in evaluation mode.
        spec: of the model.
        proof: photographs that gates are measured on.
        ranging: photographs that activation ranges are measured on; others than the proof's.
        backends: where the graph of a precision must pass.
        engines: compiles the graph of every plan as well; None makes graphs only.
        output: type of a half-precision graph's features; None is fp32.
        progress: hears what is being done.
        trace: writes the fp32 graph of a sampler; None traces the student.
        seconds: time spent by kind of work.
        made: the plan that was carried out last with success; None before.
        measured: of the builds of engines, by engine.
    """

    folder: Path
    student: Student
    spec: ModelSpec
    proof: ProofImages
    ranging: ProofImages
    backends: Callable[[Precision], Sequence[Backend]] = default_backends
    engines: EngineMaker | None = None
    output: Half | None = None
    progress: Progress = lambda line: None
    trace: Trace | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    made: Lowering | None = None
    measured: dict[str, EngineCost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._floats: dict[SamplerKind, Product | BrixelError] = {}
        self._ranges: dict[SamplerKind, dict[str, TensorRange]] = {}

    @cached_property
    def references(self) -> list[NDArray[np.float32]]:
        """What PyTorch computes for the proof's photographs."""
        with self._timed("reference"):
            return reference_features(self.student, self.spec, self.proof.pixels)

    def carry_out(self, plan: Lowering) -> tuple[Product, dict[str, Parity]]:
        """Make what a plan says and prove it.

        Returns:
            the product and the parity figures by file.

        Raises:
            BuildError: a graph or an engine could not be made.
            GateMissedError: one was made and is wrong.
        """
        product = self._float(plan.sampler)
        if plan.precision != "fp32":
            product = self._half(plan, product)
        if self.engines is not None:
            product = self._engine(plan, product, self.engines)
        self.made = plan
        return product, {name: facts["parity"] for name, facts in product.facts.items() if facts.get("parity")}

    def _float(self, sampler: SamplerKind) -> Product:
        """The proven fp32 graph of a sampler; what was wrong with it is remembered too."""
        if sampler not in self._floats:
            try:
                self._floats[sampler] = self._make_float(sampler)
            except (BuildError, ParityError) as error:
                self._floats[sampler] = error
        known = self._floats[sampler]
        if isinstance(known, BrixelError):
            raise known
        return known

    def _make_float(self, sampler: SamplerKind) -> Product:
        path = self.folder / sampler / graph_name("fp32")
        path.parent.mkdir(parents=True)
        how = f", sampling by {sampler}" if samples_of(self.student) else ""
        self.progress(f"tracing the fused model{how}")
        with self._timed("trace"):
            (self.trace or self._trace)(sampler, path)
        facts = self.proven_facts(path, "fp32", self.backends("fp32"), sampler)
        return Product(
            plan=Lowering(precision="fp32", sampler=sampler, islands=None), files=(path,), facts={path.name: facts}
        )

    def _trace(self, sampler: SamplerKind, out: Path) -> None:
        model = FusedModel(self.student, self.spec, sampler).eval()
        onnx_from_model(model, self.spec, out, has_samples=sampler == "materialised")

    def _half(self, plan: Lowering, source: Product) -> Product:
        """The proven half-precision graph, beside the fp32 one that it is made from."""
        precision: Half = "bf16" if plan.precision == "bf16" else "fp16"
        model = onnx.shape_inference.infer_shapes(onnx.load(str(source.files[0])))
        if plan.sampler not in self._ranges:
            self._ranges[plan.sampler] = self._measured(model)
        ranges = self._ranges[plan.sampler]
        islands = find_islands(model, ranges, precision, plan.islands or "measured")
        self.progress(f"writing the {precision} graph, {len(islands)} of {len(model.graph.node)} nodes in fp32")
        typed = half_from_float(model, precision, [island.node for island in islands], output=self.output)
        path = self.folder / plan.sampler / graph_name(precision)
        path.write_bytes(typed.SerializeToString(deterministic=True))
        facts = {
            **self.proven_facts(path, precision, self.backends(precision), plan.sampler),
            "islands": islands_record(islands, plan.islands or "measured", self.ranging.names),
        }
        return Product(plan=plan, files=(*source.files, path), facts={**source.facts, path.name: facts})

    def _measured(self, model: onnx.ModelProto) -> dict[str, TensorRange]:
        self.progress(f"measuring ranges on {len(self.ranging.pixels)} photographs")
        with self._timed("ranges"):
            return measure_ranges(model, _shown(self.ranging.pixels, "ranges"))

    def _engine(self, plan: Lowering, source: Product, engines: EngineMaker) -> Product:
        """The engine of the plan's graph, beside the graphs."""
        files, facts = self.engine_facts(source.files[-1], plan.precision, engines)
        return Product(plan=plan, files=(*source.files, *files), facts={**source.facts, **facts})

    def engine_facts(
        self, graph: Path, precision: Precision, engines: EngineMaker
    ) -> tuple[tuple[Path, ...], dict[str, dict[str, Any]]]:
        """Build the engine of a graph, and prove it if it runs here.

        Returns:
            the files that this gave, and what the receipt says of the engine.

        Raises:
            BuildError: it could not be built.
            GateMissedError: it does not compute what PyTorch does.
        """
        self.progress(f"building the engine of {graph.name}")
        before = set(graph.parent.iterdir())
        with self._timed("engine"):
            engine, report = engines.make(graph, precision, graph.parent)
        candidates = engines.features(engine, self.proof.pixels)
        self.measured[engine.name] = EngineCost(build_s=report.build_s, peak_host_bytes=report.peak_host_bytes)
        backend = f"{report.identity.kind} {report.identity.version}"
        record = EngineRecord(
            backend=backend, graph=graph.name, report=report.without_measured(), proven=candidates is not None
        )
        facts: dict[str, Any] = {"engine": record}
        if candidates is not None:
            facts["parity"] = self._compared(engine, precision, {backend: candidates})
        return tuple(sorted(set(graph.parent.iterdir()) - before)), {engine.name: facts}

    def type_surroundings(self, graph: Path, plan: Lowering) -> Islands:
        """Give what an INT8 graph leaves in fp32 the types of a plan that has passed, in place.

        TensorRT computes a tensor in the type that the graph gives it: INT8 among fp32 would be slower than fp16.

        Returns:
            what the receipt says of the islands.

        Raises:
            BuildError: the typed graph is not valid.
        """
        precision: Half = "bf16" if plan.precision == "bf16" else "fp16"
        model = onnx.shape_inference.infer_shapes(onnx.load(str(graph)))
        islands = find_islands(model, self._measured(model), precision, plan.islands or "measured")
        self.progress(f"typing {graph.name}: {precision} around its integers, {len(islands)} nodes in fp32")
        typed = half_from_float(model, precision, [island.node for island in islands], output=self.output)
        graph.write_bytes(typed.SerializeToString(deterministic=True))
        return islands_record(islands, plan.islands or "measured", self.ranging.names)

    def proven_facts(
        self, path: Path, precision: Precision, backends: Sequence[Backend], sampler: SamplerKind
    ) -> dict[str, Any]:
        """Count and prove a graph; what the receipt says of it.

        Raises:
            BuildError: it holds what it may not, or a backend refuses it.
            GateMissedError: it does not compute what PyTorch does.
        """
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        census = assert_census(model, precision)
        facts = {"sampler": sampler, "census": census, "precisions": graph_facts(path).operator_types}
        return {**facts, "parity": self._proven(path, precision, backends)}

    def _proven(self, path: Path, precision: Precision, backends: Sequence[Backend]) -> Parity:
        """Run a graph on every backend and compare; the first decides what stands at the record's top.

        Raises:
            GateMissedError: on one of them.
        """
        self.progress(f"comparing {path.name} with PyTorch on {len(self.proof.pixels)} photographs")
        with self._timed("parity"):
            results = {backend.name: backend.features(path, self.proof.pixels) for backend in backends}
        return self._compared(path, precision, results)

    def _compared(self, path: Path, precision: Precision, results: dict[str, Features]) -> Parity:
        reports = {name: compare(self.references, features) for name, features in results.items()}
        figures = [{"backend": name, **report.to_json()} for name, report in reports.items()]
        others = {"photographs": list(self.proof.names), "gate": precision, "also": figures[1:]}
        record = fields_from_json(Parity, {**figures[0], **others})
        for name, report in reports.items():
            try:
                check_gate(report, precision, f"{path.name} ({name})")
            except ParityError as error:
                raise GateMissedError(str(error), {path.name: record}) from error
        return record

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - start_s


def samples_of(student: Student) -> int:
    """How many deformable attentions a student has; without any there is but one lowering of it."""
    return sum(isinstance(module, DeformableAttention) for module in student.modules())


def islands_record(islands: Sequence[Island], level: IslandLevel, photographs: Sequence[str]) -> Islands:
    """Islands for the receipt: by reason, every node with the largest magnitude that it was seen to handle."""
    reasons: dict[str, dict[str, float]] = {}
    for island in islands:
        reasons.setdefault(island.reason, {})[f"{island.op} {island.node}"] = island.max_abs
    return Islands(level=level, photographs=tuple(photographs), nodes=len(islands), reasons=reasons)


def _shown(images: Images, what: str) -> Iterable[NDArray[np.uint8]]:
    """With a bar on a terminal."""
    return tqdm(images, desc=what, disable=None, leave=False)
