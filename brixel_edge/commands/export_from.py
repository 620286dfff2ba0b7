"""What brixel-export --from does, in order: directory, graphs that are there or can be made, engines, receipt.

The road of a board: what the workstation exported and proved gets its engines where they will run, proven by the
proof that travels along. No torch; onnx only where a graph must be made, in a process of its own. This process stays
small, for on a board the compiler needs the memory.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from brixel_edge.commands.export_engines import EngineBuilder, EngineMaker, TensorRtBuilder
from brixel_edge.commands.export_request import FromRequest
from brixel_edge.errors import BuildError, BundleError, ParityError, SpecError
from brixel_edge.export.engine.known_bad import needs_early_bf16
from brixel_edge.export.engine.target import BuildTarget
from brixel_edge.export.facts import FileFacts, Product, Stopwatch
from brixel_edge.export.ladder import LADDER, first_that_passes
from brixel_edge.export.making import half_graph
from brixel_edge.machine.tensorrt import MODULES
from brixel_edge.model.bundle import Bundle, graph_name, open_bundle, staged_directory, write_failure, write_receipt
from brixel_edge.model.engine_choice import EngineChoice, tensorrt_of
from brixel_edge.model.receipt import Receipt
from brixel_edge.model.receipt_sections import Attempt, Failure, Lowering, Parity, Requested, Wanted
from brixel_edge.model.spec import Precision
from brixel_edge.proof.proof import PROOF_NAME, load_proof
from brixel_edge.runtimes.proving import engine_parity


def add_engines(request: FromRequest, say: Callable[[str], None]) -> Receipt:
    """Add engines to a model directory, in place: it is the new one whole, or as it was.

    Raises:
        BundleError: no whole model directory, or one without a proof.
        SpecError: a graph that must be made and has no photographs to measure ranges on.
        BuildError: nothing could be built; `failed.json` says what was tried.
        ParityError: nothing computes what PyTorch does; the same.
    """
    bundle = open_bundle(request.root)
    if PROOF_NAME not in bundle.receipt.files:
        raise BundleError(
            f"{request.root} has no {PROOF_NAME}, so that nothing could be proven; export the model again"
        )
    for name in bundle.receipt.files:
        bundle.file(name)
    attempts: list[Attempt] = []
    watch = Stopwatch()
    with staged_directory(request.root) as folder, _failure_left(request, bundle, attempts):
        _link_files(request.root, folder)
        work = folder / "work"
        work.mkdir()
        photographs = load_proof(folder / PROOF_NAME).names
        ranging = None if request.calib is None else _ranging_file(request, bundle, work)
        maker = _engine_maker(request, bundle, photographs, watch, say)

        # 1. Graphs that are there, or are made of the fp32 graph; and the engines of them.
        def graph_of(lowering: Lowering) -> tuple[Path, dict[str, FileFacts]]:
            path = work / graph_name(lowering.precision)
            if _has_graph(bundle, lowering):
                _link(folder / path.name, path)
                return path, {}
            source = folder / graph_name("fp32")
            if not source.is_file():
                raise BuildError(
                    f"{request.root} has no {path.name} and no {source.name} to make it of; export it again"
                )
            say(f"writing {path.name}, {lowering}")
            with watch.timed("graphs"):
                facts = half_graph(
                    source,
                    lowering,
                    path,
                    proof=folder / PROOF_NAME,
                    photographs=photographs,
                    ranging=ranging,
                    output="fp16" if request.has_half_features else None,
                    keeps_opset=needs_early_bf16(target_of(request)),
                )
            return path, {path.name: facts}

        def carry_out(engine: EngineChoice, lowering: Lowering) -> tuple[Product, dict[str, Parity]]:
            graph, facts = graph_of(lowering)
            files: tuple[Path, ...] = (graph,)
            if maker is not None and engine.tensorrt is not None:
                made, engine_facts = maker.proven_engine(graph, lowering.precision)
                files, facts = (graph, *made), {**facts, **engine_facts}
            product = Product(files=files, facts=facts)
            return product, product.parity

        facts: dict[str, FileFacts] = {}
        requested: list[Requested] = []
        for engine in request.engines:
            lowerings = _lowerings(bundle, engine)
            tried: list[Attempt] = []
            try:
                product = first_that_passes(
                    lowerings,
                    lambda lowering, engine=engine: carry_out(engine, lowering),
                    tried,
                    on_failure=lambda lowering, error: say(f"gave up {lowering}: {error}"),
                )
            finally:
                attempts += [replace(attempt, engine=str(engine)) for attempt in tried]
            made = lowerings[len(tried) - 1]
            requested.append(Requested(**vars(_wanted(engine, made)), made=made, is_first_choice=made == lowerings[0]))
            facts |= product.facts
            for path in product.files:
                path.replace(folder / path.name)
        shutil.rmtree(work)

        # 2. The receipt, with what was known before.
        return write_receipt(folder, _joined(bundle.receipt, facts, attempts, requested, watch))


def target_of(request: FromRequest) -> BuildTarget:
    """What is built for, as far as can be told without loading TensorRT; its release is that of the package here."""
    kind, version = tensorrt_of(request.engines) or "trt", None
    with suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(MODULES[kind])
    return BuildTarget(kind=kind, version=version)


def _lowerings(bundle: Bundle, engine: EngineChoice) -> list[Lowering]:
    """In the order in which they are tried: sampling stays as it was exported.

    Raises:
        SpecError: INT8, whose graph only a workstation makes, and is not there.
    """
    samplers = bundle.receipt.samplers
    if engine.precision == "int8":
        name = graph_name("int8")
        if name not in bundle.receipt.files:
            raise SpecError(
                f"{bundle.root} has no {name}; quantise it on the workstation (brixel-export ... --engine onnx-int8 "
                "--calib SRC), or use trt-fp16"
            )
        return [Lowering(precision="int8", sampler=samplers[name], islands=None)]
    steps: tuple[tuple[Precision, Any], ...] = LADDER[engine.float_precision]
    exported = samplers.get(graph_name("fp32"), next(iter(samplers.values())))
    found = [Lowering(precision=precision, sampler=exported, islands=level) for precision, level in steps]
    return [
        replace(lowering, sampler=samplers[graph_name(lowering.precision)])
        if _has_graph(bundle, lowering)
        else lowering
        for lowering in found
    ]


def _has_graph(bundle: Bundle, lowering: Lowering) -> bool:
    """Whether the graph of a lowering is in the directory, with these islands."""
    name = graph_name(lowering.precision)
    islands = bundle.receipt.islands.get(name)
    level = None if islands is None or lowering.precision == "int8" else islands.level
    return name in bundle.receipt.files and level == lowering.islands


def _engine_maker(
    request: FromRequest, bundle: Bundle, photographs: tuple[str, ...], watch: Stopwatch, say: Callable[[str], None]
) -> EngineMaker | None:
    """Builds engines, and proves each in a process of its own; None where there are graphs only."""
    kind = tensorrt_of(request.engines)
    if kind is None:
        return None
    spec, proof = bundle.spec, request.root / PROOF_NAME
    builder: EngineBuilder = TensorRtBuilder(kind=kind, spec=spec, settings=request.settings, earlier=request.root)
    return EngineMaker(
        builder=builder,
        compare=lambda engine: engine_parity(engine, spec, proof),
        photographs=photographs,
        watch=watch,
        say=say,
    )


def _ranging_file(request: FromRequest, bundle: Bundle, work: Path) -> Path:
    """The frames of --calib in a file, for the process that makes graphs."""
    import numpy as np

    from brixel_edge.calib.sources import calibration_frames

    frames = calibration_frames(str(request.calib), bundle.spec.image, count=request.calib_n, seed=request.seed)
    path = work / "ranging.npy"
    np.save(path, np.concatenate(list(frames.pick(range(len(frames.hashes))))))
    return path


def _wanted(engine: EngineChoice, lowering: Lowering) -> Wanted:
    return Wanted(engine=str(engine), precision=engine.float_precision, samplers=(lowering.sampler,))


def _joined(
    receipt: Receipt,
    facts: dict[str, FileFacts],
    attempts: list[Attempt],
    requested: list[Requested],
    watch: Stopwatch,
) -> Receipt:
    """A receipt with what was added to its directory."""

    def section(name: str) -> dict[str, Any]:
        return {file: value for file, entry in facts.items() if (value := getattr(entry, name)) is not None}

    measured = receipt.measured
    return replace(
        receipt,
        samplers={**receipt.samplers, **section("sampler")},
        census={**receipt.census, **section("census")},
        precisions={**receipt.precisions, **section("precisions")},
        islands={**receipt.islands, **section("islands")},
        parity={**receipt.parity, **section("parity")},
        engines={**receipt.engines, **section("engine")},
        attempts=(*receipt.attempts, *attempts),
        also_requested=(*(receipt.also_requested or ()), *requested),
        measured=replace(
            measured,
            engines={**(measured.engines or {}), **section("cost")} or None,
            seconds={**measured.seconds, **{f"{kind} of --from": value for kind, value in watch.rounded().items()}},
        ),
    )


def _link_files(source: Path, folder: Path) -> None:
    """Every file of a directory, without its content being copied where the disk can link."""
    for path in source.iterdir():
        if path.is_file():
            _link(path, folder / path.name)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # FAT on a memory card, or another file system
        shutil.copy2(source, target)


@contextmanager
def _failure_left(request: FromRequest, bundle: Bundle, attempts: list[Attempt]) -> Iterator[None]:
    """Leave `failed.json` in the directory where the block finds nothing that can be built, or is right."""
    try:
        yield
    except (BuildError, ParityError) as error:
        samplers = tuple(dict.fromkeys(bundle.receipt.samplers.values()))
        first = request.engines[0]
        wanted = Wanted(engine=",".join(map(str, request.engines)), precision=first.float_precision, samplers=samplers)
        tools = bundle.receipt.tools
        write_failure(
            request.root,
            Failure(error=str(error), requested=wanted, spec=bundle.spec, attempts=tuple(attempts), tools=tools),
        )
        raise
