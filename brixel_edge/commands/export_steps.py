"""What brixel-export does, in order: student, float graphs with their engine, proof, INT8, receipt.

The only place where export, calibration and runtimes meet; each of them knows nothing of the others. Loads torch.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from brixel_edge.commands.export_engines import EngineMaker
from brixel_edge.commands.export_halves import halves_of_graphs
from brixel_edge.commands.export_int8 import (
    DynamicPlan,
    Int8Plans,
    MadeInt8,
    StaticPlans,
    Surroundings,
    first_proven,
    int8_targets,
)
from brixel_edge.commands.export_job import Job, job_from_request
from brixel_edge.commands.export_record import failure_left, lowering_of, section, tool_versions
from brixel_edge.commands.export_request import DEFAULT_VIEW_PX, ExportRequest, say
from brixel_edge.commands.export_speed import int8_speed
from brixel_edge.export.facts import FileFacts, Product, Stopwatch
from brixel_edge.export.float_graphs import FloatGraphs
from brixel_edge.export.graph.fuse import spec_from_student
from brixel_edge.export.graph.reference import TorchReference
from brixel_edge.export.ladder import first_that_passes
from brixel_edge.export.prove import Prover
from brixel_edge.model.bundle import staged_directory, write_receipt
from brixel_edge.model.engine_choice import EngineChoice
from brixel_edge.model.head import Head
from brixel_edge.model.receipt import Receipt
from brixel_edge.model.receipt_sections import (
    Attempt,
    Bench,
    Lowering,
    Measured,
    Parity,
    Requested,
)
from brixel_edge.model.spec import UNTRAINED_NOTICE, ModelSpec
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.feature_origin import feature_origin_of
from brixel_edge.network.head_file import load_head
from brixel_edge.network.official_weights import adapter_file, backbone_file
from brixel_edge.network.student import Student, load_student
from brixel_edge.proof.parity import ParityReport
from brixel_edge.proof.proof import PROOF_NAME, proof_from_references, save_proof
from brixel_edge.runtimes.bench.bench import Schedule, measure
from brixel_edge.runtimes.bench.machine import machine_state
from brixel_edge.runtimes.engines import engines_of_folder


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
    head = None if request.head is None else _head_of(request, student)
    specs = [
        spec_from_student(
            student,
            *size,
            request.adapter,
            request.channels,
            name=request.backbone,
            head=None if head is None else head.spec,
        )
        for size in request.sizes or ((view_px, view_px),)
    ]
    if not specs[0].trained:
        say(UNTRAINED_NOTICE)
    say(f"weights of {specs[0].backbone}: licence {specs[0].licence}")
    for spec, out in zip(specs, request.outs, strict=True):
        if len(request.outs) > 1:
            say(f"{out.name}: {spec.image.height}x{spec.image.width}")
        yield out, export_directory(job_from_request(request, student, spec, out, head))


def _head_of(request: ExportRequest, student: Student) -> Head:
    """The head of a file, as this graph shall have it.

    Raises:
        BundleError: no head file.
        SpecError: a head of other features.
    """
    assert request.head is not None
    head = load_head(request.head)
    head.require_origin(feature_origin_of(student, request.backbone), str(request.head))
    return replace(head, spec=replace(head.spec, keeps_features=request.keeps_features))


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
    wanted = replace(job.wanted(job.engines[0]), engine=",".join(map(str, job.engines)))
    with staged_directory(job.out) as folder, failure_left(job.out, job.spec, wanted, attempts, tool_versions()):
        reference = TorchReference(
            student=job.student, spec=job.spec, photographs=job.photographs, watch=watch, head=job.head
        )
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
            head=job.head,
        )

        # 1. Float graphs, and TensorRT's engines of them: for each engine the first lowering whose files all pass.
        files, facts, made = _float_files(job, graphs, engines, attempts)
        for name, path in files.items():
            path.replace(folder / name)
        shutil.rmtree(graphs.folder)

        # 2. The proof that travels along.
        maps = reference.maps
        proof = proof_from_references(
            job.photographs.names,
            job.photographs.pixels,
            maps.features,
            ranging=job.ranging.pixels,
            answers=maps.answers,
            kind=maps.kind,
        )
        save_proof(proof, folder / PROOF_NAME)

        # 3. INT8 from the fp32 graph: the first plan that is proven, and faster than the float engines, or refused.
        int8 = None
        for engine in (choice for choice in job.engines if choice.precision == "int8"):
            int8 = _int8_files(job, folder, engine, made[engine], prover)
            facts |= int8.facts
            if engines is not None and engine.tensorrt is not None:
                for name in int8.facts:
                    facts |= engines.proven_engine(folder / name, "int8")[1]
            job.say("timing int8 beside the float engines")
            speed = int8_speed(folder, job.spec, job.min_speedup, for_tensorrt=engine.tensorrt is not None)
            int8 = replace(int8, speed=speed)

        # 4. Every graph as two, where that was asked for.
        if job.has_halves:
            facts |= halves_of_graphs(job, folder, prover)

        # 5. The receipt.
        bench = None
        if job.has_bench:
            job.say("measuring latency and memory")
            bench = _bench(folder, job.spec)
        return write_receipt(folder, _receipt(job, facts, attempts, made, int8, bench, watch))


def _int8_files(job: Job, folder: Path, engine: EngineChoice, lowering: Lowering, prover: Prover) -> MadeInt8:
    """The INT8 graphs of an engine, in the folder, proven."""
    targets = int8_targets(has_frames=job.frames is not None, for_tensorrt=engine.tensorrt is not None)
    job.say(f"quantising for {', '.join(targets)}")
    plans: Int8Plans = DynamicPlan(folder)
    if job.frames is not None:
        plans = StaticPlans(folder, job.frames, targets, job.seed, cache=job.calib_cache)
    surroundings = Surroundings(lowering=lowering, ranging=job.ranging, output=job.output, keeps_opset=job.keeps_opset)
    return first_proven(plans, folder, targets, surroundings, prover)


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
            made[start] = lowering_of(attempts[-1])
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
        outputs = builder.outputs(engine, job.photographs.pixels)
        return None if outputs is None else reference.compare(outputs)

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


def _requested(job: Job, engine: EngineChoice, made: Lowering) -> Requested:
    return Requested(**vars(job.wanted(engine)), made=made, is_first_choice=made == job.lowerings(engine)[0])


def _receipt(
    job: Job,
    facts: dict[str, FileFacts],
    attempts: list[Attempt],
    made: dict[EngineChoice, Lowering],
    int8: MadeInt8 | None,
    bench: Bench | None,
    watch: Stopwatch,
) -> Receipt:
    requested = [_requested(job, engine, made[engine]) for engine in job.engines]
    return Receipt(
        spec=job.spec,
        samplers=section(facts, "sampler"),
        census=section(facts, "census"),
        precisions=section(facts, "precisions"),
        islands=section(facts, "islands"),
        parity=section(facts, "parity"),
        engines=section(facts, "engine"),
        attempts=tuple(attempts),
        requested=requested[0],
        also_requested=tuple(requested[1:]) or None,
        weights=job.weights,
        tools=tool_versions(),
        int8=int8.how if int8 else None,
        halves=section(facts, "halves") or None,
        measured=Measured(
            int8=int8.cost if int8 else None,
            int8_speed=int8.speed if int8 else None,
            bench=bench,
            created_utc=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat(),
            seconds=watch.rounded(),
            engines=section(facts, "cost") or None,
        ),
    )


def _bench(folder: Path, spec: ModelSpec) -> Bench:
    """Latency and memory of what was made, here and now."""
    rows = measure(engines_of_folder(folder, spec), Schedule(warmup=1, rounds=5, calls=1))
    return Bench(machine=asdict(machine_state()), rows=tuple(rows))
