"""Known troubles of TensorRT with exactly our graphs: which release, on which GPU, with which pattern.

Each row names the public thread it comes from; they are reports of users or maintainers, not our measurements, and
most of them are wrong results without a warning. The table only chooses a default and warns; what decides is the
parity gate on the device. Releases are compared by number, because here the number is the fact. What is not known of a
target is not held against a row: a target of unknown release is concerned by all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from brixel_edge.export.engine.target import BuildTarget, version_tuple
from brixel_edge.machine.tensorrt import EngineKind
from brixel_edge.model.graph_facts import GraphFacts
from brixel_edge.model.spec import Precision, SamplerKind

Pattern = Literal[
    "gridsample",
    "gridsample-linear",
    "attention",
    "vit",
    "norm-layer",
    "norm-decomposed",
    "control-flow",
    "conv-transpose",
    "qdq",
    "bf16-opset",
]

# What the parser of TensorRT 10.0 and 10.1 documents ends at opset 20 (onnx-tensorrt docs/operators.md); 10.9 is the
# first that is said to read 22, by a secondary source.
FIRST_WITH_OPSET_22 = "10.9"


@dataclass(frozen=True, kw_only=True)
class KnownBad:
    """One known trouble.

    Attributes:
        thread: where it was reported.
        pattern: the part of the graph that it needs.
        since: first release it was seen in.
        until: first release known to be free of it; None if none is known.
        what: what goes wrong.
        advice: what to do.
        kind: TensorRT or TensorRT-RTX.
        compute_capabilities: GPUs it was seen on; empty for any.
        precisions: of the graph; empty for any.
        sampler: the lowering of sampling that avoids it, where it is about sampling.
    """

    thread: str
    pattern: Pattern
    since: str
    until: str | None
    what: str
    advice: str
    kind: EngineKind = "trt"
    compute_capabilities: tuple[int, ...] = ()
    precisions: tuple[Precision, ...] = ()
    sampler: SamplerKind | None = None

    def concerns(self, target: BuildTarget) -> bool:
        """Whether the target's release, GPU and precision are those of the report; what is not known is not judged."""
        if target.kind != self.kind or (self.precisions and target.precision not in self.precisions):
            return False
        if target.version is not None:
            version = version_tuple(target.version)
            if version < version_tuple(self.since) or (self.until and version >= version_tuple(self.until)):
                return False
        known = set(target.compute_capabilities)
        return not (self.compute_capabilities and known) or bool(known & set(self.compute_capabilities))

    @property
    def line(self) -> str:
        """For a warning."""
        return f"{self.what} ({self.thread}); {self.advice}"


ORIN, THOR, TURING, ADA, BLACKWELL = 87, 110, 75, 89, 120

TABLE: tuple[KnownBad, ...] = (
    KnownBad(
        thread="NVIDIA/TensorRT#4813",
        pattern="gridsample",
        since="10.14",
        until=None,
        what="GridSample fused with what reads it gives wrong results silently, at every precision",
        advice="sample by gather",
        sampler="gather",
    ),
    KnownBad(
        thread="pytorch/TensorRT#4074",
        pattern="gridsample",
        since="10.14.1",
        until=None,
        precisions=("fp16",),
        what="GridSample as an fp32 island in an fp16 graph gives wrong results",
        advice="sample by gather",
        sampler="gather",
    ),
    KnownBad(
        thread="lightly-ai/lightly-train#917",
        pattern="gridsample",
        since="10.13.3",
        until="10.14",
        compute_capabilities=(TURING,),
        what="deformable attention by GridSample gives wrong results silently",
        advice="sample by gather",
        sampler="gather",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#4246",
        pattern="gridsample",
        since="8.5",
        until="8.7",
        compute_capabilities=(ORIN,),
        what="bilinear GridSample is about three times slower than it need be",
        advice="sample by gather",
        sampler="gather",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT release notes 10.2",
        pattern="gridsample",
        since="10.2",
        until="10.3",
        what="GridSample is up to four times slower than before",
        advice="sample by gather, or use TensorRT 10.3 or later",
        sampler="gather",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#4646",
        pattern="gridsample-linear",
        since="10.0",
        until=None,
        what="GridSample of opset 20 and later is read as nearest instead of bilinear, silently",
        advice="export at opset 16 to 19",
        sampler="gather",
    ),
    KnownBad(
        thread="onnx/onnx-tensorrt#1060",
        pattern="gridsample-linear",
        since="1.0",
        until="1.7",
        kind="trt-rtx",
        what="GridSample of opset 20 and later is read as nearest instead of bilinear, silently",
        advice="export at opset 16 to 19",
        sampler="gather",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#4723",
        pattern="vit",
        since="10.3",
        until="10.4",
        precisions=("fp16",),
        compute_capabilities=(ORIN,),
        what="DINOv3 ViT in fp16 gives wrong results on Orin where 8.6.1 is right",
        advice="keep the graph strongly typed with fp32 islands, or use trt-bf16",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#4742",
        pattern="vit",
        since="10.4",
        until="10.5",
        what="DINOv3 ViT-B was wrong in fp32 and NaN in fp16",
        advice="use TensorRT 10.5 or later",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#4419",
        pattern="vit",
        since="10.3",
        until="10.5",
        precisions=("fp16",),
        what="ViT in fp16 gives wrong results, 10.5 is right",
        advice="use TensorRT 10.5 or later where the board has it, else trt-bf16",
    ),
    KnownBad(
        thread="onnxsim/onnxsim#1742",
        pattern="norm-decomposed",
        since="8.5",
        until=None,
        precisions=("fp16",),
        what="LayerNorm in single operators overflows in fp16 (squares of a ViT's outliers pass 65504)",
        advice="export at opset 17 or later, with LayerNormalization",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#3656",
        pattern="norm-layer",
        since="8.5",
        until="8.7",
        what="LayerNormalization of opset 17 was not parsed on an Orin",
        advice="use JetPack 6.1 or later (TensorRT 10.3)",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#4558",
        pattern="control-flow",
        since="8.5",
        until=None,
        what="If, Loop or Range, left by a rotary embedding, fail to build or give wrong values",
        advice="export with constant sin and cos tables",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#4837",
        pattern="attention",
        since="10.0",
        until=None,
        precisions=("fp16", "bf16"),
        compute_capabilities=(BLACKWELL,),
        what="fused attention in half precision gives wrong results silently",
        advice="use trt-fp32 where the parity gate fails",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#4333",
        pattern="attention",
        since="10.7",
        until="10.8",
        compute_capabilities=(ADA,),
        what="scaled dot-product attention gives wrong results",
        advice="use another TensorRT release",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT-Edge-LLM#105",
        pattern="attention",
        since="10.13",
        until="10.14",
        compute_capabilities=(101, THOR),
        what="q, k and v fused into one product are corrupted at batch 1 on Thor",
        advice="set __LUNOWUD=-peep:fc_h_fusion=off in the environment of the build",
    ),
    KnownBad(
        thread="rerun-io/examples-monorepo#106",
        pattern="conv-transpose",
        since="11.0",
        until=None,
        precisions=("bf16",),
        what="ConvTranspose in bf16 parses and then fails to build",
        advice="use trt-fp16, or keep ConvTranspose in fp32",
    ),
    KnownBad(
        thread="rerun-io/examples-monorepo#106",
        pattern="conv-transpose",
        since="1.0",
        until=None,
        kind="trt-rtx",
        precisions=("bf16",),
        what="ConvTranspose in bf16 parses and then fails to build",
        advice="use a graph in fp16, or keep ConvTranspose in fp32",
    ),
    KnownBad(
        thread="onnx/onnx-tensorrt docs/operators.md of 10.0 and 10.1",
        pattern="bf16-opset",
        since="8.5",
        until=FIRST_WITH_OPSET_22,
        precisions=("bf16",),
        what="the parser ends at opset 20, and a bf16 graph of opset 22 is beyond it",
        advice="export with --for the board, which writes bf16 at opset 18 with its convolutions in fp32",
    ),
    KnownBad(
        thread="NVIDIA/Model-Optimizer#167",
        pattern="qdq",
        since="8.5",
        until=None,
        precisions=("int8",),
        compute_capabilities=(TURING,),
        what="a ViT in int8 was slower than in fp16 on a T4",
        advice="compare with trt-fp16 before use",
    ),
    KnownBad(
        thread="NVIDIA/TensorRT#4273",
        pattern="qdq",
        since="8.5",
        until=None,
        precisions=("int8",),
        compute_capabilities=(70, 80, 86),
        what="DINOv2-B in int8 was slower than in fp16",
        advice="compare with trt-fp16 before use",
    ),
)


def graph_patterns(facts: GraphFacts) -> frozenset[Pattern]:
    """The patterns of the table that a graph has."""
    counts = facts.op_counts

    def has(*operators: str) -> bool:
        return any(counts.get(operator) for operator in operators)

    has_norm, has_attention = has("LayerNormalization"), has("Attention") or (has("Softmax") and has("MatMul", "Gemm"))
    found: dict[Pattern, bool] = {
        "gridsample": has("GridSample"),
        "gridsample-linear": has("GridSample") and facts.opset >= 20,
        "attention": has_attention,
        "vit": has_attention and has_norm,
        "norm-layer": has_norm,
        "norm-decomposed": not has_norm and has("ReduceMean") and has("Pow", "Sqrt"),
        "control-flow": has("If", "Loop", "Range", "NonZero"),
        "conv-transpose": has("ConvTranspose"),
        "qdq": has("QuantizeLinear", "DequantizeLinear"),
        "bf16-opset": facts.opset > 20,
    }
    return frozenset(pattern for pattern, is_there in found.items() if is_there)


def known_bad(target: BuildTarget, patterns: frozenset[Pattern]) -> tuple[KnownBad, ...]:
    """The rows that concern a graph with these patterns on this target, in the table's order."""
    return tuple(row for row in TABLE if row.pattern in patterns and row.concerns(target))


def needs_early_bf16(target: BuildTarget) -> bool:
    """Whether bf16 must be written at the fp32 graph's opset, with islands: the release does not read opset 22."""
    if target.kind != "trt" or target.version is None:
        return False
    return version_tuple(target.version) < version_tuple(FIRST_WITH_OPSET_22)


def default_sampler(target: BuildTarget) -> SamplerKind:
    """The lowering of deformable sampling to try first.

    GridSample is the fastest where it is right. Where the release or the GPU is not known, every row that could
    concern the target counts, so that a graph exported for "some TensorRT" samples by gather, which has no row.
    """
    rows = known_bad(target, frozenset({"gridsample"}))
    chosen: list[SamplerKind] = [row.sampler for row in rows if row.sampler is not None]
    return chosen[0] if chosen else "gridsample"


def sampler_order(target: BuildTarget) -> tuple[SamplerKind, ...]:
    """All lowerings, the default first: what a builder tries when the parity gate fails.

    Materialising the samples only stops a fusion, so it comes last: it cannot help where GridSample itself is wrong.
    """
    first = default_sampler(target)
    order: tuple[SamplerKind, ...] = ("gather", "gridsample", "materialised")
    others: list[SamplerKind] = [sampler for sampler in order if sampler != first]
    return (first, *others)
