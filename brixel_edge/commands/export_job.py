"""What one model directory is made of: photographs, frames and lowerings, taken from the request before torch works.

Loads torch, for a job holds the student.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.calib.disjoint import require_other_pictures
from brixel_edge.calib.frames import FrameStore
from brixel_edge.calib.sources import calibration_frames
from brixel_edge.commands.export_engines import EngineBuilder, TensorRtBuilder
from brixel_edge.commands.export_int8 import ranging_of_frames
from brixel_edge.commands.export_request import RANDOM, ExportRequest, say
from brixel_edge.errors import SpecError
from brixel_edge.export.engine.known_bad import needs_early_bf16, sampler_order
from brixel_edge.export.engine.target import target_here
from brixel_edge.export.facts import Photographs
from brixel_edge.export.float_graphs import Judges, Trace, samples_of
from brixel_edge.export.judges import default_judges
from brixel_edge.export.ladder import lowerings_for
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.engine_choice import EngineChoice
from brixel_edge.model.head import Head
from brixel_edge.model.receipt_sections import Lowering, Wanted, WeightFile, Weights
from brixel_edge.model.spec import Half, ModelSpec, SamplerKind
from brixel_edge.network.student import Student
from brixel_edge.proof.photographs import (
    MIN_TELLING,
    PROOF,
    RANGING,
    bundled_photographs,
    faultless_looking,
    load_images,
    photographs_in,
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
        head: that `spec` speaks of; None without one.
        min_speedup: what INT8 must gain over the fastest float engine of this machine; 0 takes any.
        seed: of all that is random in quantisation.
        has_bench: measure latency and memory for the receipt.
        has_halves: every graph also as two, backbone and adapter.
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
    head: Head | None = None
    min_speedup: float = 0
    seed: int = 0
    has_bench: bool = False
    has_halves: bool = False
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


def job_from_request(
    request: ExportRequest, student: Student, spec: ModelSpec, out: Path, head: Head | None = None
) -> Job:
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
    photographs = proof_photographs(request.parity_images, spec)
    if frames is not None and request.calib is not None:
        files = photographs_in(request.parity_images) if request.parity_images else bundled_photographs(PROOF)
        require_other_pictures(frames, request.calib, photographs.names, photographs.pixels, files)
    ranging = _loaded(bundled_photographs(RANGING), spec)
    if frames is not None:
        for_int8 = any(engine.precision == "int8" for engine in request.engines)
        ranging = ranging_of_frames(frames, request.seed, for_int8=for_int8)
    return Job(
        out=out,
        student=student,
        spec=spec,
        engines=request.engines,
        photographs=photographs,
        ranging=ranging,
        frames=frames,
        calib_cache=request.calib_cache,
        weights=Weights(
            backbone=_weight_file(request.backbone_weights),
            adapter=_weight_file(request.adapter_weights),
            head=None if request.head is None else _weight_file(str(request.head)),
        ),
        samplers=samplers,
        bf16_samplers=samplers if request.sampler is not None else BF16_SAMPLERS,
        output="fp16" if request.has_half_features else None,
        keeps_opset=target is not None and needs_early_bf16(target),
        builder=builder,
        head=head,
        min_speedup=request.min_speedup,
        seed=request.seed,
        has_bench=request.has_bench,
        has_halves=request.has_halves,
        say=say,
    )


def _loaded(paths: list[Path], spec: ModelSpec) -> Photographs:
    pixels = load_images(paths, spec.image.height, spec.image.width, spec.image.channels)
    return Photographs(names=[path.name for path in paths], pixels=pixels)


def proof_photographs(folder: Path | None, spec: ModelSpec) -> Photographs:
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


def _weight_file(weights: str) -> WeightFile | None:
    if weights == RANDOM:
        return None
    return WeightFile(file=Path(weights).name, sha256=sha256_of(Path(weights)))
