"""What brixel-export does, in order: student, float graphs with their engine, proof, INT8, receipt.

The only place where export, calibration and runtimes meet; each of them knows nothing of the others. Loads torch.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from brixel_edge.calib.disjoint import require_other_pictures
from brixel_edge.calib.frames import FrameStore
from brixel_edge.calib.sources import calibration_frames
from brixel_edge.calib.split import split_frames
from brixel_edge.commands.export_engines import EngineBuilder, EngineMaker, TensorRtBuilder
from brixel_edge.commands.export_int8 import int8_speed, int8_targets, proven_int8, quantized
from brixel_edge.commands.export_request import DEFAULT_VIEW_PX, RANDOM, ExportRequest, say
from brixel_edge.errors import BuildError, ParityError, SpecError
from brixel_edge.export.engine.known_bad import needs_early_bf16, sampler_order
from brixel_edge.export.engine.target import target_here
from brixel_edge.export.facts import FileFacts, Photographs, Product, Stopwatch
from brixel_edge.export.float_graphs import FloatGraphs, Judges, Trace, samples_of
from brixel_edge.export.graph.fuse import spec_from_student
from brixel_edge.export.graph.reference import TorchReference
from brixel_edge.export.judges import default_judges
from brixel_edge.export.ladder import first_that_passes, lowerings_for
from brixel_edge.export.prove import Prover
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.bundle import staged_directory, write_failure, write_receipt
from brixel_edge.model.engine_choice import EngineChoice
from brixel_edge.model.receipt import Receipt
from brixel_edge.model.receipt_sections import (
    Attempt,
    Bench,
    Failure,
    Lowering,
    Measured,
    Parity,
    Requested,
    Wanted,
    WeightFile,
    Weights,
)
from brixel_edge.model.spec import UNTRAINED_NOTICE, Half, ModelSpec, SamplerKind
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.official_weights import adapter_file, backbone_file
from brixel_edge.network.student import Student, load_student
from brixel_edge.proof.parity import ParityReport
from brixel_edge.proof.photographs import (
    MIN_TELLING,
    PROOF,
    RANGING,
    bundled_photographs,
    faultless_looking,
    load_images,
    photographs_in,
)
from brixel_edge.proof.proof import PROOF_NAME, proof_from_references, save_proof
from brixel_edge.runtimes.bench.bench import Schedule, measure
from brixel_edge.runtimes.bench.machine import machine_state
from brixel_edge.runtimes.engines import engines_of_folder

RANGING_FRAMES = 16  # of --calib; ranges of fp16 need fewer than INT8's scales
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

# GridSample where it is right: one node, and the fastest. In bf16 graphs it stands under the name that some TensorRT
# releases read as nearest (NVIDIA/TensorRT #4646), so gathering comes first there.
DEFAULT_SAMPLERS: tuple[SamplerKind, ...] = ("gridsample", "gather")
BF16_SAMPLERS: tuple[SamplerKind, ...] = ("gather", "gridsample")
RANDOM_WEIGHTS = Weights(backbone=None, adapter=None)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model directory to make.

    Attributes:
        out: the directory.
        student: in evaluation mode.
        spec: of the model at its image size.
        engines: what to make, in this order; TensorRT engines are of one kind.
        photographs: of the proof.
        ranging: photographs that activation ranges are measured on; others than the proof's.
        frames: of calibration, at the graph's size; None quantises dynamically, for ONNX Runtime alone.
        calib_cache: folder of earlier calibrations; None for none.
        weights: where they came from, for the receipt.
        samplers: lowerings of deformable sampling in the order in which they are tried.
        bf16_samplers: the same for bf16.
        output: type of a half-precision graph's features; None is fp32.
        keeps_opset: bf16 at the opset of the fp32 graph, for TensorRT before 10.9.
        builder: compiles the graphs; None makes graphs only.
        judges: where the float graph of a precision must pass.
        trace: writes the fp32 graph of a sampler; None traces the student.
        min_speedup: what INT8 must gain over the fastest float engine of this machine; 0 takes any.
        seed: of all that is random in quantisation.
        has_bench: measure latency and memory for the receipt.
        say: called with one line per step.
    """

    out: Path
    student: Student
    spec: ModelSpec
    engines: tuple[EngineChoice, ...]
    photographs: Photographs
    ranging: Photographs
    frames: FrameStore | None = None
    calib_cache: Path | None = None
    weights: Weights = RANDOM_WEIGHTS
    samplers: tuple[SamplerKind, ...] = DEFAULT_SAMPLERS
    bf16_samplers: tuple[SamplerKind, ...] = BF16_SAMPLERS
    output: Half | None = None
    keeps_opset: bool = False
    builder: EngineBuilder | None = None
    judges: Judges = default_judges
    trace: Trace | None = None
    min_speedup: float = 0
    seed: int = 0
    has_bench: bool = False
    say: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        """Refuse ranges from the photographs that judge.

        Raises:
            SpecError: they share one.
        """
        judged = {
            image.tobytes(): name for image, name in zip(self.photographs.pixels, self.photographs.names, strict=True)
        }
        for image, name in zip(self.ranging.pixels, self.ranging.names, strict=True):
            if image.tobytes() in judged:
                raise SpecError(
                    f"ranges would be measured on {name}, which is {judged[image.tobytes()]} of the proof: what "
                    "chooses may not judge; give --calib and --parity-images that share no picture"
                )

    def wanted(self, engine: EngineChoice) -> Wanted:
        """Of an engine, for the receipt."""
        return Wanted(engine=str(engine), precision=engine.float_precision, samplers=self.samplers)

    def lowerings(self, engine: EngineChoice) -> list[Lowering]:
        """In the order in which they are tried; without deformable sampling there is one lowering of it."""
        end = None if samples_of(self.student) else 1
        precision = engine.float_precision
        return lowerings_for(precision, self.samplers[:end], bf16_samplers=self.bf16_samplers[:end])


def export(request: ExportRequest) -> Iterator[tuple[Path, Receipt]]:
    """Make every model directory that was asked for.

    Yields:
        each directory and its receipt, as soon as it is whole.

    Raises:
        BrixelError: the first that could not be made; those before it stay.
    """
    weights = str(backbone_file(request.backbone, request.backbone_weights))
    backbone = load_backbone(request.backbone, weights, tap_layers=request.tap_layers, seed=request.seed)
    # From here on published weights are files like any other, so that the receipt names them.
    adapter_weights = str(adapter_file(backbone.spec, request.adapter_weights))
    request = dataclasses.replace(request, backbone_weights=weights, adapter_weights=adapter_weights)
    student = load_student(backbone, request.adapter_weights, request.adapter, seed=request.seed, conv=request.conv)
    # All sizes are refused or taken before the first is made.
    view_px = DEFAULT_VIEW_PX * student.view_scale
    specs = [
        spec_from_student(student, *size, request.adapter, request.channels, name=request.backbone)
        for size in request.sizes or ((view_px, view_px),)
    ]
    if not specs[0].trained:
        say(UNTRAINED_NOTICE)
    say(f"weights of {specs[0].backbone}: licence {specs[0].licence}")
    for spec, out in zip(specs, request.outs, strict=True):
        if len(request.outs) > 1:
            say(f"{out.name}: {spec.image.height}x{spec.image.width}")
        yield out, export_directory(job_from_request(request, student, spec, out))


def job_from_request(request: ExportRequest, student: Student, spec: ModelSpec, out: Path) -> Job:
    """Take the photographs and frames, and choose the lowerings, of one directory."""
    frames, kind = None, request.tensorrt
    if request.calib is not None:
        say(f"taking up to {request.calib_n} calibration frames from {request.calib}")
        frames = calibration_frames(request.calib, spec.image, count=request.calib_n, seed=request.seed)
    samplers = DEFAULT_SAMPLERS
    target = request.target or (
        None
        if kind is None
        else target_here(kind, request.engines[0].float_precision, request.settings.rtx_capabilities)
    )
    if request.sampler is not None:
        samplers = (request.sampler,)
    elif target is not None:
        samplers = sampler_order(target)
    builder = None
    if kind is not None:
        earlier = out if out.is_dir() else None
        builder = TensorRtBuilder(kind=kind, spec=spec, settings=request.settings, earlier=earlier)
    photographs = _proof_photographs(request.parity_images, spec)
    if frames is not None and request.calib is not None:
        files = photographs_in(request.parity_images) if request.parity_images else bundled_photographs(PROOF)
        require_other_pictures(frames, request.calib, photographs.names, photographs.pixels, files)
    return Job(
        out=out,
        student=student,
        spec=spec,
        engines=request.engines,
        photographs=photographs,
        ranging=_loaded(bundled_photographs(RANGING), spec) if frames is None else _ranging(frames, request),
        frames=frames,
        calib_cache=request.calib_cache,
        weights=Weights(backbone=_weight_file(request.backbone_weights), adapter=_weight_file(request.adapter_weights)),
        samplers=samplers,
        bf16_samplers=samplers if request.sampler is not None else BF16_SAMPLERS,
        output="fp16" if request.has_half_features else None,
        keeps_opset=target is not None and needs_early_bf16(target),
        builder=builder,
        min_speedup=request.min_speedup,
        seed=request.seed,
        has_bench=request.has_bench,
        say=say,
    )


def export_directory(job: Job) -> Receipt:
    """Make one model directory whose files are proven equal to PyTorch.

    It is built under a temporary name and takes its place only when every gate has been passed.

    Returns:
        the receipt, as written to model.json.

    Raises:
        BuildError: nothing could be built. Only `failed.json` is left at `out`, or beside an earlier model there.
        ParityError: nothing computes what PyTorch does; the same is left.
    """
    attempts: list[Attempt] = []
    watch = Stopwatch()
    with staged_directory(job.out) as folder, _failure_left(job, attempts):
        reference = TorchReference(student=job.student, spec=job.spec, photographs=job.photographs, watch=watch)
        prover = Prover(photographs=job.photographs, compare=reference.compare, watch=watch, say=job.say)
        engines = _engine_maker(job, reference, prover)
        graphs = FloatGraphs(
            folder=folder / "work",
            student=job.student,
            spec=job.spec,
            prover=prover,
            ranging=job.ranging,
            output=job.output,
            keeps_opset=job.keeps_opset,
            judges=job.judges,
            trace=job.trace,
        )

        # 1. Float graphs, and TensorRT's engines of them: for each engine the first lowering whose files all pass.
        files, facts, made = _float_files(job, graphs, engines, attempts)
        for name, path in files.items():
            path.replace(folder / name)
        shutil.rmtree(graphs.folder)

        # 2. The proof that travels along.
        proof = proof_from_references(
            job.photographs.names, job.photographs.pixels, reference.features, ranging=job.ranging.pixels
        )
        save_proof(proof, folder / PROOF_NAME)

        # 3. INT8 from the fp32 graph: quantised, proven, and faster than the float engines, or refused.
        int8 = int8_cost = speed = None
        for engine in (choice for choice in job.engines if choice.precision == "int8"):
            for_tensorrt = engine.tensorrt is not None
            targets = int8_targets(has_frames=job.frames is not None, for_tensorrt=for_tensorrt)
            job.say(f"quantising for {', '.join(targets)}")
            int8, int8_cost, proven = quantized(
                folder,
                job.frames,
                targets,
                job.seed,
                cache=job.calib_cache,
                prove=partial(proven_int8, folder, made[engine], graphs),
            )
            for graph, graph_facts in proven.items():
                facts[graph.name] = graph_facts
                if engines is not None and for_tensorrt:
                    facts |= engines.proven_engine(graph, "int8")[1]
            job.say("timing int8 beside the float engines")
            speed = int8_speed(folder, job.spec, job.min_speedup, for_tensorrt=for_tensorrt)

        # 4. The receipt.
        bench = None
        if job.has_bench:
            job.say("measuring latency and memory")
            bench = _bench(folder, job.spec)
        requested = [_requested(job, engine, made[engine]) for engine in job.engines]
        receipt = Receipt(
            spec=job.spec,
            samplers=_section(facts, "sampler"),
            census=_section(facts, "census"),
            precisions=_section(facts, "precisions"),
            islands=_section(facts, "islands"),
            parity=_section(facts, "parity"),
            engines=_section(facts, "engine"),
            attempts=tuple(attempts),
            requested=requested[0],
            also_requested=tuple(requested[1:]) or None,
            weights=job.weights,
            tools=tool_versions(),
            int8=int8,
            measured=Measured(
                int8=int8_cost,
                int8_speed=speed,
                bench=bench,
                created_utc=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat(),
                seconds=watch.rounded(),
                engines=_section(facts, "cost") or None,
            ),
        )
        return write_receipt(folder, receipt)


def _float_files(
    job: Job, graphs: FloatGraphs, engines: EngineMaker | None, attempts: list[Attempt]
) -> tuple[dict[str, Path], dict[str, FileFacts], dict[EngineChoice, Lowering]]:
    """Files by name, what is known of them, and the lowering that each engine came to."""
    files: dict[str, Path] = {}
    facts: dict[str, FileFacts] = {}
    made: dict[EngineChoice, Lowering] = {}

    def carry_out(engine: EngineChoice, lowering: Lowering) -> tuple[Product, dict[str, Parity]]:
        product = graphs.made(lowering)
        if engines is not None and engine.tensorrt is not None:
            added, known = engines.proven_engine(product.files[-1], lowering.precision)
            product = Product(files=(*product.files, *added), facts={**product.facts, **known})
        return product, product.parity

    for engine in job.engines:
        start = replace(engine, precision=engine.float_precision)
        if start not in made:  # INT8 for TensorRT starts from what trt-fp16 came to
            product = _first_product(job, engine, partial(carry_out, engine), attempts)
            made[start] = _lowering_of(attempts[-1])
            files |= {path.name: path for path in product.files}
            facts |= product.facts
        made[engine] = made[start]
    return files, facts, made


def _engine_maker(job: Job, reference: TorchReference, prover: Prover) -> EngineMaker | None:
    """Builds engines and compares them with PyTorch in this process; None where there are graphs only."""
    builder = job.builder
    if builder is None:
        return None

    def compared(engine: Path) -> ParityReport | None:
        features = builder.features(engine, job.photographs.pixels)
        return None if features is None else reference.compare(features)

    return EngineMaker(
        builder=builder, compare=compared, photographs=job.photographs.names, watch=prover.watch, say=job.say
    )


def _first_product(
    job: Job,
    engine: EngineChoice,
    carry_out: Callable[[Lowering], tuple[Product, dict[str, Parity]]],
    attempts: list[Attempt],
) -> Product:
    """Carry out the first lowering of an engine that passes; what was tried goes behind the attempts so far."""
    tried: list[Attempt] = []
    try:
        return first_that_passes(
            job.lowerings(engine),
            carry_out,
            tried,
            on_failure=lambda lowering, error: job.say(f"gave up {lowering}: {error}"),
        )
    finally:
        name = str(engine) if len(job.engines) > 1 else None
        attempts += [replace(attempt, engine=name) for attempt in tried]


def _lowering_of(attempt: Attempt) -> Lowering:
    return Lowering(precision=attempt.precision, sampler=attempt.sampler, islands=attempt.islands)


def _requested(job: Job, engine: EngineChoice, made: Lowering) -> Requested:
    return Requested(**vars(job.wanted(engine)), made=made, is_first_choice=made == job.lowerings(engine)[0])


@contextmanager
def _failure_left(job: Job, attempts: list[Attempt]) -> Iterator[None]:
    """Leave `failed.json` where the block finds nothing that can be built, or nothing that is right."""
    try:
        yield
    except (BuildError, ParityError) as error:
        wanted = replace(job.wanted(job.engines[0]), engine=",".join(map(str, job.engines)))
        failure = Failure(
            error=str(error), requested=wanted, spec=job.spec, attempts=tuple(attempts), tools=tool_versions()
        )
        write_failure(job.out, failure)
        raise


def _section(facts: dict[str, FileFacts], name: str) -> dict[str, Any]:
    """One kind of fact by file, where a file has it."""
    return {file: value for file, entry in facts.items() if (value := getattr(entry, name)) is not None}


def _bench(folder: Path, spec: ModelSpec) -> Bench:
    """Latency and memory of what was made, here and now."""
    rows = measure(engines_of_folder(folder, spec), Schedule(warmup=1, rounds=5, calls=1))
    return Bench(machine=asdict(machine_state()), rows=tuple(rows))


def _loaded(paths: list[Path], spec: ModelSpec) -> Photographs:
    pixels = load_images(paths, spec.image.height, spec.image.width, spec.image.channels)
    return Photographs(names=[path.name for path in paths], pixels=pixels)


def _proof_photographs(folder: Path | None, spec: ModelSpec) -> Photographs:
    """Pictures that could show a fault: those of the folder, and built-in ones where it has too few.

    Raises:
        BackendMissing: built-in ones are needed and scikit-image is not there.
    """
    given = _loaded(bundled_photographs(PROOF) if folder is None else photographs_in(folder), spec)
    silent = faultless_looking(given.pixels)
    kept = [place for place in range(len(given.names)) if place not in silent]
    for place, reason in silent.items():
        say(f"{given.names[place]} is {reason} and could not show a fault; it proves nothing and is left out")
    names, pixels = [given.names[place] for place in kept], [given.pixels[place] for place in kept]
    if len(names) < MIN_TELLING:
        say(f"{len(names)} photographs could show a fault, {MIN_TELLING} are needed: built-in ones join them")
        more = _loaded(bundled_photographs(PROOF), spec)
        names, pixels = [*names, *more.names], [*pixels, *more.pixels]
    return Photographs(names=names, pixels=pixels)


def _ranging(frames: FrameStore, request: ExportRequest) -> Photographs:
    """What activation ranges are measured on where the device's world is known: frames that do not judge INT8."""
    is_int8 = any(engine.precision == "int8" for engine in request.engines)
    usable = split_frames(frames.times_s, request.seed).calibration if is_int8 else range(len(frames))
    positions = usable[:RANGING_FRAMES]
    names = [f"sha256:{frames.hashes[position][:16]}" for position in positions]
    return Photographs(names=names, pixels=list(frames.pick(positions)))


def _weight_file(weights: str) -> WeightFile | None:
    if weights == RANDOM:
        return None
    return WeightFile(file=Path(weights).name, sha256=sha256_of(Path(weights)))


def tool_versions() -> dict[str, str]:
    """Versions of what made the artefacts."""
    versions = {"python": platform.python_version()}
    for name in TOOLS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
