"""Student -> model directory: graphs, proof and receipt, or nothing but the report of why not.

The directory is built under a temporary name and takes its place only when every gate has been passed. Plans are tried
in order until one passes (`plans`); where none does, `failed.json` says what was tried.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brixel_edge.errors import BuildError, ParityError
from brixel_edge.export.half.islands import Half
from brixel_edge.export.judges import Backend, default_backends
from brixel_edge.export.ladder import (
    NoPlanBuiltError,
    NoPlanPassedError,
    first_that_passes,
    plans_for,
)
from brixel_edge.export.workshop import EngineMaker, Product, Progress, ProofImages, Trace, Workshop, samples_of
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.bundle import staged_directory, write_failure, write_receipt
from brixel_edge.model.receipt import Receipt
from brixel_edge.model.receipt_sections import (
    Attempt,
    Failure,
    Lowering,
    Measured,
    Requested,
    Wanted,
    WeightFile,
    Weights,
)
from brixel_edge.model.spec import ModelSpec, Precision
from brixel_edge.network.deformable import SamplerKind
from brixel_edge.network.student import Student
from brixel_edge.proof.proof import PROOF_NAME, proof_from_references, save_proof

TOOLS = (
    "brixel-edge",
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxsim",
    "onnxruntime",
    "openvino",
    "numpy",
    "opencv-python-headless",
)

# Where a fact of a file stands in the receipt, if not under its own name.
_PLACES = {"sampler": "samplers", "engine": "engines"}

# GridSample where it is right: one node, and the fastest. In bf16 graphs it stands under the name that some TensorRT
# releases read as nearest (NVIDIA/TensorRT #4646), so gathering comes first there.
DEFAULT_SAMPLERS: tuple[SamplerKind, ...] = ("gridsample", "gather")
BF16_SAMPLERS: tuple[SamplerKind, ...] = ("gather", "gridsample")


@dataclass(frozen=True, kw_only=True)
class WeightSources:
    """Which files the weights came from; None where they are seeded random or fetched by timm."""

    backbone: Path | None = None
    adapter: Path | None = None

    def hashed(self) -> Weights:
        """For the receipt."""
        backbone, adapter = (
            WeightFile(file=path.name, sha256=sha256_of(path)) if path else None
            for path in (self.backbone, self.adapter)
        )
        return Weights(backbone=backbone, adapter=adapter)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A model directory that has passed its gates and has no receipt yet.

    Attributes:
        folder: where its files lie.
        spec: of the model.
        workshop: what made it.
        sections: of the receipt, to be added to.
    """

    folder: Path
    spec: ModelSpec
    workshop: Workshop
    sections: dict[str, Any]

    def add(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Put what is known of files into the sections of the receipt."""
        for name, entries in facts.items():
            for kind, value in entries.items():
                self.sections.setdefault(_PLACES.get(kind, kind), {})[name] = value

    def add_graph(self, name: str, precision: Precision, backends: Sequence[Backend], sampler: SamplerKind) -> None:
        """Prove a graph that was added to the folder, and put it on record.

        Raises:
            BuildError: it holds what it may not, or a backend refuses it.
            GateMissedError: it does not compute what PyTorch does.
        """
        self.add({name: self.workshop.proven_facts(self.folder / name, precision, backends, sampler)})

    def add_engine(self, engines: EngineMaker, graph: str, precision: Precision) -> None:
        """Build the engine of a graph in the folder, prove it if it runs here, and put it on record.

        Raises:
            BuildError: it could not be built.
            GateMissedError: it does not compute what PyTorch does.
        """
        _, facts = self.workshop.engine_facts(self.folder / graph, precision, engines)
        self.add(facts)


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """What an export shall make.

    Attributes:
        engine: its name on the command line, for the receipt.
        precision: of the graph; fp32, fp16 or bf16.
        samplers: lowerings of deformable sampling in the order in which they are tried.
        bf16_samplers: the same for bf16.
        output: type of a half-precision graph's features; None is fp32.
        backends: where the graphs must pass.
        engines: compiles the graphs; None makes graphs only.
        finish: adds to the directory after its gates were passed (quantises, measures); may refuse it.
        trace: writes the fp32 graph of a sampler; None traces the student.
    """

    engine: str = "onnx"
    precision: Precision = "fp32"
    samplers: Sequence[SamplerKind] = DEFAULT_SAMPLERS
    bf16_samplers: Sequence[SamplerKind] = BF16_SAMPLERS
    output: Half | None = None
    backends: Callable[[Precision], Sequence[Backend]] = default_backends
    engines: EngineMaker | None = None
    finish: Sequence[Callable[[Stage], None]] = field(default=())
    trace: Trace | None = None


def bundle_from_student(
    student: Student,
    spec: ModelSpec,
    out: Path,
    *,
    images: ProofImages,
    ranging: ProofImages,
    sources: WeightSources,
    ordered: Ordered | None = None,
    progress: Progress = lambda _: None,
) -> Receipt:
    """Write `out`, a model directory whose files are proven equal to PyTorch.

    Args:
        student: in evaluation mode.
        spec: of the model at one image size.
        out: the directory.
        images: photographs of the proof.
        ranging: photographs that activation ranges are measured on; others than the proof's.
        sources: of the weights, for the receipt.
        ordered: what to make; None is the fp32 graph.
        progress: hears what is being done.

    Returns:
        the receipt, as written to model.json.

    Raises:
        BuildError: no plan could be built. Only `failed.json` is left at `out`, or beside an earlier model there.
        ParityError: no plan computes what PyTorch does; the same is left.
    """
    ordered = ordered or Ordered()
    start_s = time.perf_counter()
    plans = _plans(student, ordered)
    attempts: list[Attempt] = []
    with staged_directory(out) as folder:
        work = folder / "work"
        workshop = Workshop(
            folder=work,
            student=student,
            spec=spec,
            proof=images,
            ranging=ranging,
            backends=ordered.backends,
            engines=ordered.engines,
            output=ordered.output,
            progress=progress,
            trace=ordered.trace,
        )
        try:
            product, attempts = first_that_passes(
                plans, workshop.carry_out, on_failure=lambda plan, error: progress(f"gave up {plan}: {error}")
            )
            stage = _staged(folder, workshop, product)
            stage.sections["attempts"] = tuple(attempts)
            stage.sections["requested"] = _requested(ordered, plans, product.plan)
            stage.sections["weights"] = sources.hashed()
            stage.sections["tools"] = tool_versions()
            for finish in ordered.finish:
                finish(stage)
        except (NoPlanBuiltError, NoPlanPassedError) as error:
            _leave_report(out, spec, ordered, error.attempts, str(error))
            raise
        except (BuildError, ParityError) as error:  # of what finishes the directory
            _leave_report(out, spec, ordered, attempts, str(error))
            raise
        times = _times(workshop, time.perf_counter() - start_s)
        measured = Measured(**stage.sections.pop("measured", {}), **times)
        return write_receipt(folder, Receipt(spec=spec, **stage.sections, measured=measured))


def _plans(student: Student, ordered: Ordered) -> list[Lowering]:
    """A model without deformable sampling has one lowering of it."""
    end = None if samples_of(student) else 1
    return plans_for(ordered.precision, ordered.samplers[:end], bf16_samplers=ordered.bf16_samplers[:end])


def _staged(folder: Path, workshop: Workshop, product: Product) -> Stage:
    """Move the product's files to their places, and write the proof that travels along."""
    for path in product.files:
        path.replace(folder / path.name)
    shutil.rmtree(workshop.folder)
    proof = proof_from_references(workshop.proof.names, workshop.proof.pixels, workshop.references)
    save_proof(proof, folder / PROOF_NAME)
    sections: dict[str, Any] = {key: {} for key in ("samplers", "census", "precisions", "islands", "parity", "engines")}
    stage = Stage(folder=folder, spec=workshop.spec, workshop=workshop, sections=sections)
    stage.add(product.facts)
    return stage


def _requested(ordered: Ordered, plans: Sequence[Lowering], made: Lowering) -> Requested:
    return Requested(
        engine=ordered.engine,
        precision=ordered.precision,
        samplers=tuple(ordered.samplers),
        made=made,
        is_first_choice=made == plans[0],
    )


def _leave_report(out: Path, spec: ModelSpec, ordered: Ordered, attempts: Sequence[Attempt], error: str) -> None:
    wanted = Wanted(engine=ordered.engine, precision=ordered.precision, samplers=tuple(ordered.samplers))
    write_failure(
        out, Failure(error=error, requested=wanted, spec=spec, attempts=tuple(attempts), tools=tool_versions())
    )


def _times(workshop: Workshop, total_s: float) -> dict[str, Any]:
    """What differs from run to run."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    seconds = {kind: round(spent, 3) for kind, spent in sorted(workshop.seconds.items())}
    times: dict[str, Any] = {"created_utc": now.isoformat(), "seconds": {**seconds, "total": round(total_s, 3)}}
    return {**times, "engines": workshop.measured} if workshop.measured else times


def tool_versions() -> dict[str, str]:
    """Versions of what made the artefacts."""
    versions = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
