"""What brixel-export --from does, in order: directory, graphs that are there or can be made, engines, receipt.

The road of a board: what the workstation exported and proved gets its engines where they will run, proven by the
proof that travels along. No torch; onnx only where a graph must be made, in a process of its own. This process stays
small, for on a board the compiler needs the memory.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from brixel_edge.commands.export_directory import Directory, link_files
from brixel_edge.commands.export_engines import EngineBuilder, EngineMaker, TensorRtBuilder
from brixel_edge.commands.export_from_request import FromRequest
from brixel_edge.commands.export_int8_making import Int8Graphs
from brixel_edge.commands.export_record import failure_left, lowering_of, section
from brixel_edge.commands.export_speed import int8_speed
from brixel_edge.errors import BundleError
from brixel_edge.export.engine.known_bad import needs_early_bf16
from brixel_edge.export.engine.target import BuildTarget
from brixel_edge.export.facts import FileFacts, Product, Stopwatch
from brixel_edge.export.ladder import first_that_passes
from brixel_edge.machine.tensorrt import MODULES
from brixel_edge.model.bundle import Bundle, open_bundle, staged_directory, write_receipt
from brixel_edge.model.engine_choice import EngineChoice, tensorrt_of
from brixel_edge.model.receipt import Receipt
from brixel_edge.model.receipt_sections import Attempt, Int8Speed, Lowering, Parity, Requested, Wanted
from brixel_edge.proof.proof import PROOF_NAME
from brixel_edge.runtimes.proving import engine_parity

Say = Callable[[str], None]


def add_engines(request: FromRequest, say: Say) -> Receipt:
    """Add engines to a model directory, in place: it is the new one whole, or as it was.

    Raises:
        BundleError: no whole model directory, or one without a proof.
        SpecError: a graph that must be made and has no photographs to measure ranges on, or to calibrate with.
        BuildError: nothing could be built; `failed.json` says what was tried.
        ParityError: nothing computes what PyTorch does; the same.
    """
    bundle = _whole_bundle(request)
    attempts: list[Attempt] = []
    watch = Stopwatch()
    wanted = _wanted(request.engines[0], bundle, ",".join(map(str, request.engines)))
    with (
        staged_directory(request.root) as folder,
        failure_left(request.root, bundle.spec, wanted, attempts, bundle.receipt.tools),
    ):
        link_files(request.root, folder)
        directory = Directory(
            bundle=bundle,
            folder=folder,
            calib=request.calib,
            calib_n=request.calib_n,
            seed=request.seed,
            output="fp16" if request.has_half_features else None,
            keeps_opset=needs_early_bf16(target_of(request)),
            watch=watch,
            say=say,
        )
        for engine in request.engines:
            directory.require_makeable(engine)
        maker = _engine_maker(request, directory)

        # 1. Graphs that are there, or are made of the fp32 graph; and the engines of them.
        facts: dict[str, FileFacts] = {}
        made: dict[EngineChoice, Lowering] = {}
        for engine in request.engines:
            start = replace(engine, precision=engine.float_precision)
            if start not in made:  # INT8 for TensorRT starts from what trt-fp16 came to
                product = _first_product(engine, directory, maker, attempts)
                made[start] = lowering_of(attempts[-1])
                facts |= directory.taken_in(product)
            made[engine] = made[start]

        # 2. INT8: a graph that is there, or is made of frames; its engine, faster than the float ones, or refused.
        int8, speed = Int8Graphs(facts={}), None
        for engine in (choice for choice in request.engines if choice.precision == "int8"):
            files, int8 = directory.int8_graphs(engine, made[engine])
            product = Product(files=files, facts=int8.facts)
            if maker is not None and engine.tensorrt is not None:
                product = _with_engine(product, maker, engine)
            facts |= directory.taken_in(product)
            if product.facts:
                say("timing int8 beside the float engines")
                for_tensorrt = engine.tensorrt is not None
                speed = int8_speed(folder, bundle.spec, request.min_speedup, for_tensorrt=for_tensorrt)
        directory.clear()

        # 3. The receipt, with what was known before.
        requested = [_requested(engine, bundle, directory, made[engine]) for engine in request.engines]
        return write_receipt(folder, _joined(bundle.receipt, facts, attempts, requested, int8, speed, watch))


def target_of(request: FromRequest) -> BuildTarget:
    """What is built for, as far as can be told without loading TensorRT; its release is that of the package here."""
    kind, version = tensorrt_of(request.engines) or "trt", None
    with suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(MODULES[kind])
    return BuildTarget(kind=kind, version=version)


def _whole_bundle(request: FromRequest) -> Bundle:
    bundle = open_bundle(request.root)
    if PROOF_NAME not in bundle.receipt.files:
        raise BundleError(
            f"{request.root} has no {PROOF_NAME}, so that nothing could be proven; export the model again"
        )
    for name in bundle.receipt.files:
        bundle.file(name)
    return bundle


def _first_product(
    engine: EngineChoice, directory: Directory, maker: EngineMaker | None, attempts: list[Attempt]
) -> Product:
    """The first float lowering of an engine whose files all pass; what was tried goes behind the attempts so far."""
    tried: list[Attempt] = []
    try:
        return first_that_passes(
            directory.lowerings(engine),
            partial(_carried_out, directory, maker, engine),
            tried,
            on_failure=lambda lowering, error: directory.say(f"gave up {lowering}: {error}"),
        )
    finally:
        attempts += [replace(attempt, engine=str(engine)) for attempt in tried]


def _carried_out(
    directory: Directory, maker: EngineMaker | None, engine: EngineChoice, lowering: Lowering
) -> tuple[Product, dict[str, Parity]]:
    graph, facts = directory.graph_of(lowering)
    product = Product(files=(graph,), facts=facts)
    if maker is not None and engine.tensorrt is not None:
        product = _with_engine(product, maker, replace(engine, precision=lowering.precision))
    return product, product.parity


def _with_engine(product: Product, maker: EngineMaker, engine: EngineChoice) -> Product:
    """The same with the engine of its last graph, proven."""
    files, facts = maker.proven_engine(product.files[-1], engine.precision)
    return Product(files=(*product.files, *files), facts={**product.facts, **facts})


def _engine_maker(request: FromRequest, directory: Directory) -> EngineMaker | None:
    """Builds engines, and proves each in a process of its own; None where there are graphs only."""
    kind = tensorrt_of(request.engines)
    if kind is None:
        return None
    spec, proof = directory.bundle.spec, request.root / PROOF_NAME
    builder: EngineBuilder = TensorRtBuilder(kind=kind, spec=spec, settings=request.settings, earlier=request.root)
    return EngineMaker(
        builder=builder,
        compare=lambda engine: engine_parity(engine, spec, proof),
        photographs=directory.photographs,
        watch=directory.watch,
        say=directory.say,
    )


def _wanted(engine: EngineChoice, bundle: Bundle, name: str) -> Wanted:
    samplers = tuple(dict.fromkeys(bundle.receipt.samplers.values()))
    return Wanted(engine=name, precision=engine.float_precision, samplers=samplers)


def _requested(engine: EngineChoice, bundle: Bundle, directory: Directory, made: Lowering) -> Requested:
    wanted = replace(_wanted(engine, bundle, str(engine)), samplers=(made.sampler,))
    return Requested(**vars(wanted), made=made, is_first_choice=made == directory.lowerings(engine)[0])


def _joined(
    receipt: Receipt,
    facts: dict[str, FileFacts],
    attempts: list[Attempt],
    requested: list[Requested],
    int8: Int8Graphs,
    speed: Int8Speed | None,
    watch: Stopwatch,
) -> Receipt:
    """A receipt with what was added to its directory."""
    measured = receipt.measured
    return replace(
        receipt,
        samplers={**receipt.samplers, **section(facts, "sampler")},
        census={**receipt.census, **section(facts, "census")},
        precisions={**receipt.precisions, **section(facts, "precisions")},
        islands={**receipt.islands, **section(facts, "islands")},
        parity={**receipt.parity, **section(facts, "parity")},
        engines={**receipt.engines, **section(facts, "engine")},
        attempts=(*receipt.attempts, *attempts),
        also_requested=(*(receipt.also_requested or ()), *requested),
        int8=int8.how or receipt.int8,
        measured=replace(
            measured,
            int8=int8.cost or measured.int8,
            int8_speed=speed or measured.int8_speed,
            engines={**(measured.engines or {}), **section(facts, "cost")} or None,
            seconds={**measured.seconds, **{f"{kind} of --from": value for kind, value in watch.rounded().items()}},
        ),
    )
