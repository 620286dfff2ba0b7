"""The fp32 and half-precision graphs of one model at one size, made and proven.

What several lowerings share is made once: the fp32 graph of a sampler is traced and proven once, whichever lowerings
start from it; ranges are measured once a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from brixel_edge.errors import BrixelError, BuildError, ParityError
from brixel_edge.export.facts import Photographs, Product
from brixel_edge.export.graph.fuse import FusedModel
from brixel_edge.export.graph.to_onnx import onnx_from_model
from brixel_edge.export.half.ranges import TensorRange, measure_ranges
from brixel_edge.export.half.typed import write_typed
from brixel_edge.export.judges import Judge, default_judges
from brixel_edge.export.prove import Prover
from brixel_edge.machine.progress import progress
from brixel_edge.model.bundle import graph_name
from brixel_edge.model.head import Head
from brixel_edge.model.receipt_sections import Islands, Lowering
from brixel_edge.model.spec import Half, ModelSpec, Precision, SamplerKind
from brixel_edge.network.deformable import DeformableAttention
from brixel_edge.network.student import Student

Trace = Callable[[SamplerKind, Path], None]
Judges = Callable[[Precision], Sequence[Judge]]


@dataclass(kw_only=True)
class FloatGraphs:
    """See the module.

    Attributes:
        folder: for all files that are made.
        student: in evaluation mode.
        spec: of the model.
        prover: of the model.
        ranging: photographs that activation ranges are measured on; others than the proof's.
        output: type of a half-precision graph's features; None is fp32.
        keeps_opset: bf16 at the opset of the fp32 graph.
        judges: where the graph of a precision must pass.
        trace: writes the fp32 graph of a sampler; None traces the student.
        head: of the model; None without one.
    """

    folder: Path
    student: Student
    spec: ModelSpec
    prover: Prover
    ranging: Photographs
    output: Half | None = None
    keeps_opset: bool = False
    judges: Judges = default_judges
    trace: Trace | None = None
    head: Head | None = None

    def __post_init__(self) -> None:
        self._floats: dict[SamplerKind, Product | BrixelError] = {}
        self._ranges: dict[SamplerKind, dict[str, TensorRange]] = {}

    def made(self, lowering: Lowering) -> Product:
        """The graph of a lowering, proven, behind the fp32 graph that it is made from.

        Raises:
            BuildError: a graph could not be made.
            GateMissedError: one was made and is wrong.
        """
        product = self._float(lowering.sampler)
        return product if lowering.precision == "fp32" else self._half(lowering, product)

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
        self.prover.say(f"tracing the fused model{how}")
        with self.prover.watch.timed("trace"):
            (self.trace or self._trace)(sampler, path)
        facts = self.prover.graph(path, "fp32", sampler, self.judges("fp32"))
        return Product(files=(path,), facts={path.name: facts})

    def _trace(self, sampler: SamplerKind, out: Path) -> None:
        model = FusedModel(self.student, self.spec, sampler, self.head).eval()
        onnx_from_model(model, self.spec, out, has_samples=sampler == "materialised")

    def _half(self, lowering: Lowering, source: Product) -> Product:
        model = onnx.shape_inference.infer_shapes(onnx.load(str(source.files[0])))
        if lowering.sampler not in self._ranges:
            self._ranges[lowering.sampler] = self._measured(model)
        path = self.folder / lowering.sampler / graph_name(lowering.precision)
        what = f"writing the {lowering.precision} graph"
        islands = self._typed(what, model, self._ranges[lowering.sampler], lowering, path)
        facts = self.prover.graph(path, lowering.precision, lowering.sampler, self.judges(lowering.precision))
        return Product(
            files=(*source.files, path),
            facts={**source.facts, path.name: replace(facts, islands=islands)},
        )

    def _measured(self, model: onnx.ModelProto) -> dict[str, TensorRange]:
        pixels = self.ranging.pixels
        self.prover.say(f"measuring ranges on {len(pixels)} photographs")
        with self.prover.watch.timed("ranges"):
            return measure_ranges(model, progress(pixels, "ranges"))

    def _typed(
        self, what: str, model: onnx.ModelProto, ranges: dict[str, TensorRange], lowering: Lowering, out: Path
    ) -> Islands:
        """Write a graph in a lowering's types; what stayed in fp32."""
        self.prover.say(what)
        islands = write_typed(
            model,
            ranges,
            lowering,
            out,
            photographs=self.ranging.names,
            output=self.output,
            keeps_opset=self.keeps_opset,
        )
        self.prover.say(f"{islands.nodes} of {len(model.graph.node)} nodes stay in fp32")
        return islands


def samples_of(student: Student) -> int:
    """How many deformable attentions a student has; without any there is but one lowering of it."""
    return sum(isinstance(module, DeformableAttention) for module in student.modules())
