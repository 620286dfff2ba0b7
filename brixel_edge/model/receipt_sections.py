"""The sections of the receipt: one frozen class each, whose fields are the names in model.json."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from brixel_edge.errors import BundleError
from brixel_edge.model.engine_file import EngineReport
from brixel_edge.model.head_spec import HeadKind
from brixel_edge.model.json_form import fields_to_json
from brixel_edge.model.spec import ModelSpec, Precision, SamplerKind

IslandLevel = Literal["measured", "wide"]

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the model directory."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256) or self.bytes < 0:
            raise BundleError(f"files: {self.sha256!r} is no sha256, or {self.bytes} no size in bytes")


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A file that weights came from; its name, not its folder."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the weights came from; None for random ones, for timm's hub, and for no head."""

    backbone: WeightFile | None
    adapter: WeightFile | None
    head: WeightFile | None = None


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """One way to compute the features.

    Attributes:
        precision: of everything outside the islands.
        sampler: lowering of deformable sampling.
        islands: how many nodes of a half-precision graph stay in fp32; None for fp32.
    """

    precision: Precision
    sampler: SamplerKind
    islands: IslandLevel | None

    def __str__(self) -> str:
        wide = " with wide islands" if self.islands == "wide" else ""
        return f"{self.precision}{wide}, {self.sampler}"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asked for.

    Attributes:
        engine: of `--engine`.
        precision: of the float graph that it starts from.
        samplers: lowerings of deformable sampling in the order in which they are tried.
    """

    engine: str
    precision: Precision
    samplers: tuple[SamplerKind, ...]


@dataclass(frozen=True, kw_only=True)
class Requested(Wanted):
    """What the user asked for, and the lowering that was carried out."""

    made: Lowering
    is_first_choice: bool


@dataclass(frozen=True, kw_only=True)
class Census:
    """Counts of a graph.

    Attributes:
        opset: of ONNX's own domain.
        nodes: all nodes.
        parameters: elements of all initializers.
        ops: nodes by operator in alphabetical order, the domain in front where it is not ONNX's own.
    """

    opset: int
    nodes: int
    parameters: int
    ops: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Islands:
    """Nodes of a half-precision graph that stay in fp32.

    Attributes:
        level: how readily a node became one.
        photographs: that ranges were measured on.
        nodes: how many.
        reasons: reason -> operator and name of the node -> largest magnitude that it was seen to handle.
    """

    level: IslandLevel
    photographs: tuple[str, ...]
    nodes: int
    reasons: dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class AnswerFigures:
    """How far a head's answers are from those on PyTorch's features.

    Attributes:
        kind: of the head.
        agreement: share of the cells with PyTorch's class; None where there are no classes.
        error: of depth: mean of |d / d' - 1|; else ||candidate - reference|| / ||reference - its mean||.
        finite: no NaN and no Inf; else there are no figures.
    """

    kind: HeadKind
    agreement: float | None
    error: float | None
    finite: bool = True

    @property
    def line(self) -> str:
        """For people."""
        if not self.finite or self.error is None:
            return "answers of NaN or Inf"
        if self.agreement is not None:
            return f"classes agree {self.agreement:.3%}, error {self.error:.1e}"
        return f"{'depth' if self.kind == 'depth' else 'components'} off by {self.error:.1e}"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How far a file's outputs are from PyTorch's on one backend.

    Those of the features are None where they are not finite, and where the file gives a head's answer alone.
    """

    backend: str
    cosine_mean: float | None
    cosine_p01: float | None
    centred_mean: float | None
    frobenius: float | None
    max_abs: float | None
    finite: bool
    images: int
    norm_error: float | None = None
    answers: AnswerFigures | None = None

    def __post_init__(self) -> None:
        numbers = (
            self.cosine_mean,
            self.cosine_p01,
            self.centred_mean,
            self.frobenius,
            self.max_abs,
            self.norm_error,
        )
        if self.images < 1 or not all(number is None or math.isfinite(number) for number in numbers):
            raise BundleError(f"parity on {self.backend}: {numbers} on {self.images} images are no figures")

    @property
    def line(self) -> str:
        """For people."""
        parts = [] if self.answers is None else [self.answers.line]
        if self.cosine_mean is not None or self.answers is None:
            figures = (self.cosine_mean, self.cosine_p01, self.frobenius)
            mean, worst, error = (math.nan if number is None else number for number in figures)
            parts = [f"cosine mean {mean:.6f}, worst 1 % {worst:.6f}, relative error {error:.1e}", *parts]
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Parity(Figures):
    """The proof of one file: the figures of the backend that decides, and those of the others.

    Attributes:
        photographs: that were compared.
        gate: precision whose bounds hold.
        also: further backends that ran the same file.
    """

    photographs: tuple[str, ...]
    gate: Precision
    also: tuple[Figures, ...]


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Two files that were cut from a graph, as one engine with the backbone on every frame beside that graph.

    Attributes:
        graph: that was cut.
        backbone: the other half.
        backend: that ran all three.
        error: largest relative error of an output of any photograph; 0 where all are equal to the bit.
        images: that were compared.
    """

    graph: str
    backbone: str
    backend: str
    error: float
    images: int

    def __post_init__(self) -> None:
        if self.images < 1 or not 0 <= self.error < math.inf:
            raise BundleError(f"halves: {self.error} on {self.images} images is no comparison")


@dataclass(frozen=True, kw_only=True)
class Attempt(Lowering):
    """What came of a lowering.

    Attributes:
        passed: it is the one that was taken.
        error: why it was given up.
        parity: by file, as far as it was measured.
        engine: that it was tried for, where several were asked for.
    """

    passed: bool
    error: str | None
    parity: dict[str, Parity]
    engine: str | None = None


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """A TensorRT engine of the directory.

    Attributes:
        backend: kind and release that built it.
        graph: file that it was built from.
        report: how it was built, without what differs from build to build.
        proven: False if the machine of the export could not run it.
    """

    backend: str
    graph: str
    report: EngineReport
    proven: bool

    def to_json(self) -> dict[str, Any]:
        """The report's fields between ours."""
        report = {key: value for key, value in self.report.to_json().items() if key not in self.report.measured}
        return {"backend": self.backend, "graph": self.graph, **report, "proven": self.proven}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> EngineRecord:
        """Read what `to_json` wrote; earlier releases left `proven` out of those that were.

        Raises:
            BundleError: a field is missing, unknown or of another type.
        """
        fields = {"build_s": None, "peak_host_bytes": None, **record}
        try:
            backend, graph, proven = fields.pop("backend"), fields.pop("graph"), fields.pop("proven", True)
        except KeyError as error:
            raise BundleError(f"engines: {error} is missing") from error
        return cls(backend=backend, graph=graph, proven=proven is True, report=EngineReport.from_json(fields))


@dataclass(frozen=True, kw_only=True)
class Int8:
    """How the INT8 graphs were made; which nodes is in plan.json. All but the first three are of static ones alone.

    Attributes:
        kind: with scales from calibration frames, or from each input at run time.
        int8_nodes: products in integers.
        files: graphs, plan, calibration and curve.
        graph_sha256: of the float graph.
        seed: of all that is random.
        bounds: that were asked for.
        float_nodes: products that stay in floating point, with the reason.
        int8_macs_share: multiplications in integers, of all.
        smoothed_groups: groups whose outliers were moved, of all groups.
        frames: how many calibrated, chose, and judged.
        frames_sha256: digest of each of these parts' frames; no two parts share one.
        lowered: by target: fidelity with its lower bounds on the judging frames, and what kernels really ran.
        rounds: plans that were lowered and verified.
    """

    kind: Literal["static", "dynamic"]
    graph_sha256: str | None = None
    seed: int | None = None
    bounds: dict[str, float] | None = None
    int8_nodes: int
    float_nodes: dict[str, str] | None = None
    int8_macs_share: float | None = None
    smoothed_groups: dict[str, int] | None = None
    frames: dict[str, int] | None = None
    frames_sha256: dict[str, str] | None = None
    lowered: tuple[dict[str, object], ...] | None = None
    rounds: int | None = None
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Int8Cost:
    """What quantising took.

    Attributes:
        seconds: wall time.
        peak_rss_bytes: of the process.
        curve_ms: nodes in INT8 -> latency at the points of curve.json [ms].
    """

    seconds: float | None = None
    peak_rss_bytes: int | None = None
    curve_ms: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Int8Speed:
    """INT8 beside the float engines of the machine: medians by engine [ms], and the verdict."""

    int8_ms: dict[str, float]
    float_ms: dict[str, float]
    speedup: float
    message: str


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """What was measured of one engine; `error` says why nothing was.

    Attributes:
        name: of the engine.
        p50_ms: median call.
        p99_ms: 99th percentile.
        per_s: calls a second, by the mean.
        peak_bytes: largest resident memory of its process, Python and libraries included.
        device_bytes: memory on an accelerator, where the backend says.
        load_s: opening the engine.
        calls: that were counted.
        error: None if it was measured.
    """

    name: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    per_s: float | None = None
    peak_bytes: int | None = None
    device_bytes: int | None = None
    load_s: float | None = None
    calls: int = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what was not measured is null."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Latency and memory of the directory's files, where it was made."""

    machine: dict[str, str | float | None]
    rows: tuple[BenchRow, ...]


@dataclass(frozen=True, kw_only=True)
class EngineCost:
    """What building an engine took."""

    build_s: float | None
    peak_host_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Times, memory, the machine: all that differs from run to run, and nothing else does.

    Attributes:
        int8: of quantising.
        int8_speed: what INT8 gains here.
        bench: latency and memory.
        created_utc: end of the export; None in receipts of version 1.
        seconds: by kind of work, and `total`.
        engines: by engine.
    """

    int8: Int8Cost | None = None
    int8_speed: Int8Speed | None = None
    bench: Bench | None = None
    created_utc: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    engines: dict[str, EngineCost] | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the features of a file are worth, scored by brixel-eval on labelled data.

    Attributes:
        file: of the directory.
        backend: that ran it.
        task: of brixel-eval.
        data: name of the data set's folder.
        protocol: of brixel-eval.
        probe: `linear`, `light` or `none`.
        score: name of the score.
        mean: over seeds.
        deviation: over seeds; 0 for one.
        seeds: probes that were trained.
        pictures: or videos, that were scored.
    """

    file: str
    backend: str
    task: str
    data: str
    protocol: str
    probe: str
    score: str
    mean: float
    deviation: float
    seeds: int
    pictures: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.deviation)):
            raise BundleError(f"evaluations: {self.score} of {self.file} on {self.task} is no number")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """`failed.json`: an export that gave nothing, and everything that was tried."""

    error: str
    requested: Wanted
    spec: ModelSpec
    attempts: tuple[Attempt, ...]
    tools: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return fields_to_json(self)
