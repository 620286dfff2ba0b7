"""What brixel-export does, step by step: check, load, and for each size make a model directory.

The only place where export, calibration and runtimes meet; each of them knows nothing of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brixel_edge.commands.export import DEFAULT_VIEW_PX, PROGRAM, RANDOM, ExportRequest
from brixel_edge.errors import BackendMissing, SpecError
from brixel_edge.model.receipt_sections import Bench, BenchRow
from brixel_edge.model.spec import UNTRAINED_NOTICE

if TYPE_CHECKING:
    from brixel_edge.calib.frames import FrameStore
    from brixel_edge.commands.export_engines import TensorRtMaker
    from brixel_edge.export.bundle_from_student import Ordered, Stage
    from brixel_edge.export.workshop import ProofImages
    from brixel_edge.model.receipt import Receipt
    from brixel_edge.model.spec import ModelSpec, Precision
    from brixel_edge.network.student import Student

RANGING_FRAMES = 16  # of --calib; ranges of fp16 need fewer than INT8's scales


def export(request: ExportRequest) -> Iterator[tuple[Path, Receipt]]:
    """Make every model directory that was asked for.

    Yields:
        each directory and its receipt, as soon as it is whole.

    Raises:
        BrixelError: the first that could not be made; those before it stay.
    """
    check_engine(request.engine)
    if request.engine == "trt-int8" and request.calib is None:
        raise SpecError(
            "--engine trt-int8 needs --calib SRC, frames of what the device will see (folder, video or camera)"
        )
    _load_torch_side()
    student = _load_student(request)
    # All sizes are refused or taken before the first is made.
    view_px = DEFAULT_VIEW_PX * student.view_scale
    specs = [_spec(request, student, size) for size in request.sizes or ((view_px, view_px),)]
    if not specs[0].trained:
        say(UNTRAINED_NOTICE)
    say(f"weights of {specs[0].backbone}: licence {specs[0].licence}")
    for spec, out in zip(specs, request.outs, strict=True):
        yield out, _export_one(request, student, spec, out)


def check_engine(engine: str) -> None:
    """Whether this machine can make an engine, before anything slow is done.

    Raises:
        BackendMissing: the message says what to install where.
    """
    from brixel_edge.machine.tensorrt import INSTALL_HINTS, has_tensorrt

    if engine == "trt-rtx" and not has_tensorrt("trt-rtx"):
        raise BackendMissing(f"--engine trt-rtx needs TensorRT-RTX: {INSTALL_HINTS['trt-rtx']}")
    if not engine.startswith("trt-") or engine == "trt-rtx":
        return
    if not has_tensorrt("trt"):
        raise BackendMissing(f"--engine {engine} needs TensorRT: {INSTALL_HINTS['trt']}")
    from brixel_edge.machine.cuda import current_device, import_cudart

    current_device(import_cudart())


def _load_torch_side() -> None:
    try:
        import onnxsim  # noqa: F401
        import timm  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise BackendMissing(
            f"{PROGRAM} needs {error.name}: pip install 'brixel-edge[export]' on the build machine"
        ) from error


def _load_student(request: ExportRequest) -> Student:
    from brixel_edge.network.backbone import load_backbone
    from brixel_edge.network.student import load_student

    backbone = load_backbone(
        request.backbone, request.backbone_weights, tap_layers=request.tap_layers, seed=request.seed
    )
    adapter: Any = request.adapter
    return load_student(backbone, request.adapter_weights, adapter, seed=request.seed, conv=request.conv)


def _spec(request: ExportRequest, student: Student, size: tuple[int, int]) -> ModelSpec:
    from brixel_edge.export.graph.fuse import spec_from_student

    return spec_from_student(student, *size, request.adapter, request.channels, name=request.backbone)


def _export_one(request: ExportRequest, student: Student, spec: ModelSpec, out: Path) -> Receipt:
    from brixel_edge.export.bundle_from_student import WeightSources, bundle_from_student

    if len(request.outs) > 1:
        say(f"{out.name}: {spec.image.height}x{spec.image.width}")
    frames = _calibration_frames(request, spec)
    return bundle_from_student(
        student,
        spec,
        out,
        images=_proof_images(request, spec),
        ranging=_ranging_images(spec, frames),
        sources=WeightSources(
            backbone=_file_or_none(request.backbone_weights), adapter=_file_or_none(request.adapter_weights)
        ),
        ordered=_ordered(request, spec, out, frames),
        progress=say,
    )


def graph_precision(engine: str) -> Precision:
    """The precision of the float graph that an engine starts from."""
    if engine in ("onnx-fp16", "trt-fp16", "trt-rtx", "trt-int8"):
        return "fp16"  # trt-int8 is judged against it
    return "bf16" if engine.endswith("-bf16") else "fp32"


def _ordered(request: ExportRequest, spec: ModelSpec, out: Path, frames: FrameStore | None) -> Ordered:
    from brixel_edge.export.bundle_from_student import BF16_SAMPLERS, Ordered

    precision = graph_precision(request.engine)
    engines = _engine_maker(request, spec, out)
    samplers: Any = (request.sampler,) if request.sampler != "auto" else _samplers(request, precision)
    return Ordered(
        engine=request.engine,
        precision=precision,
        samplers=samplers,
        bf16_samplers=samplers if request.sampler != "auto" else BF16_SAMPLERS,
        output="fp16" if request.features == "fp16" else None,
        engines=engines,
        finish=tuple(_finishes(request, frames, engines)),
    )


def _engine_maker(request: ExportRequest, spec: ModelSpec, out: Path) -> TensorRtMaker | None:
    if not request.engine.startswith("trt-"):
        return None
    from brixel_edge.commands.export_engines import TensorRtMaker

    kind = "trt-rtx" if request.engine == "trt-rtx" else "trt"
    return TensorRtMaker(kind=kind, spec=spec, settings=request.settings, earlier=out if out.is_dir() else None)


def _finishes(
    request: ExportRequest, frames: FrameStore | None, engines: TensorRtMaker | None
) -> Iterator[Callable[[Stage], None]]:
    """What is added to a directory after its float graphs were proven."""
    if request.engine.endswith("-int8"):
        from brixel_edge.commands.export_int8 import Int8Finish

        yield Int8Finish(frames=frames, seed=request.seed, min_speedup=request.min_speedup, engines=engines)
    if request.has_bench:
        yield measured


def measured(stage: Stage) -> None:
    """Latency and memory of what was made, here and now, for the receipt."""
    from dataclasses import asdict

    from brixel_edge.runtimes.bench.bench import Schedule, measure
    from brixel_edge.runtimes.bench.machine import machine_state
    from brixel_edge.runtimes.engines import engines_of_folder

    say("measuring latency and memory")
    rows = measure(engines_of_folder(stage.folder, stage.spec), Schedule(warmup=1, rounds=5, calls=1))
    bench = Bench(machine=asdict(machine_state()), rows=tuple(BenchRow(**asdict(row)) for row in rows))
    stage.sections.setdefault("measured", {})["bench"] = bench


def _samplers(request: ExportRequest, precision: Precision) -> tuple[str, ...]:
    """Lowerings in the order in which they are tried: the target's own first."""
    from brixel_edge.export.bundle_from_student import DEFAULT_SAMPLERS

    if not request.engine.startswith("trt-"):
        return DEFAULT_SAMPLERS
    from brixel_edge.export.engine.known_bad import sampler_order
    from brixel_edge.export.engine.trt_target import target_here

    kind = "trt-rtx" if request.engine == "trt-rtx" else "trt"
    return sampler_order(target_here(kind, precision, request.settings.rtx_capabilities))


def _proof_images(request: ExportRequest, spec: ModelSpec) -> ProofImages:
    from brixel_edge.proof.photographs import PROOF, bundled_photographs, photographs_in

    return _loaded(photographs_in(request.parity_images) if request.parity_images else bundled_photographs(PROOF), spec)


def _calibration_frames(request: ExportRequest, spec: ModelSpec) -> FrameStore | None:
    """Frames of --calib at the graph's size; None without."""
    if request.calib is None:
        return None
    from brixel_edge.calib.sources import calibration_frames

    say(f"taking up to {request.calib_n} calibration frames from {request.calib}")
    return calibration_frames(request.calib, spec.image, count=request.calib_n, seed=request.seed)


def _ranging_images(spec: ModelSpec, frames: FrameStore | None) -> ProofImages:
    """What activation ranges are measured on: frames of the device's world, or photographs."""
    from brixel_edge.export.workshop import ProofImages
    from brixel_edge.proof.photographs import RANGING, bundled_photographs

    if frames is None:
        return _loaded(bundled_photographs(RANGING), spec)
    names = [f"sha256:{digest[:16]}" for digest in frames.hashes[:RANGING_FRAMES]]
    return ProofImages(names=names, pixels=list(frames.pick(range(len(names)))))


def _loaded(paths: list[Path], spec: ModelSpec) -> ProofImages:
    from brixel_edge.export.workshop import ProofImages
    from brixel_edge.proof.photographs import load_images

    pixels = load_images(paths, spec.image.height, spec.image.width, spec.image.channels)
    return ProofImages(names=[path.name for path in paths], pixels=pixels)


def _file_or_none(weights: str) -> Path | None:
    return None if weights in (RANDOM, "pretrained") else Path(weights)


def say(line: str) -> None:
    """A line of progress."""
    print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)
