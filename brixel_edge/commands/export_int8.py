"""INT8 for brixel-export: plan after plan of the proven fp32 graph, and the proof of each against PyTorch. No torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from brixel_edge.calib.choice.search import Found
from brixel_edge.calib.frames import FrameStore
from brixel_edge.calib.lowering.dynamic import quantize_dynamic
from brixel_edge.calib.lowering.targets import GRAPH_NAMES, Int8Target
from brixel_edge.calib.quantize import Settings, prepare
from brixel_edge.calib.split import split_frames
from brixel_edge.errors import ParityError
from brixel_edge.export.facts import FileFacts, Photographs
from brixel_edge.export.half.typed import type_file
from brixel_edge.export.judges import OpenVinoJudge, OrtJudge, RoundingJudge
from brixel_edge.export.prove import Prover
from brixel_edge.model.bundle import ORT_INT8_NAME, graph_name
from brixel_edge.model.json_form import fields_from_json
from brixel_edge.model.receipt_sections import Int8, Int8Cost, Int8Speed, Lowering
from brixel_edge.model.spec import Half

RANGING_FRAMES = 16  # of --calib; ranges of fp16 need fewer than INT8's scales


class Int8Plans(Protocol):
    """Plans of one fp32 graph; the graphs of the last one lie in the folder."""

    def write_next(self, refusal: str = "") -> None:
        """Write the graphs of the next plan.

        Args:
            refusal: what the gate said of the plan before.

        Raises:
            ParityError: none is left.
            BuildError: a backend runs the result in floating point.
        """
        ...

    def finish(self) -> tuple[Int8, Int8Cost]:
        """How the last plan was made, and what it took."""
        ...


class StaticPlans:
    """Plans with scales from calibration frames.

    Args:
        folder: of the fp32 graph and of all that is written.
        frames: of calibration.
        targets: what the graphs are for.
        seed: of all that is random.
        cache: folder of earlier calibrations; None for none.
        curve_points: states of the curve to measure; 0 for none.
    """

    def __init__(
        self,
        folder: Path,
        frames: FrameStore,
        targets: tuple[Int8Target, ...],
        seed: int,
        *,
        cache: Path | None = None,
        curve_points: int = Settings.curve_points,
    ) -> None:
        threads = os.cpu_count() or 1
        settings = Settings(targets=targets, seed=seed, threads=threads, cache=cache, curve_points=curve_points)
        self._quantization = prepare(folder / graph_name("fp32"), frames, out_dir=folder, settings=settings)
        self._found: Found | None = None

    def write_next(self, refusal: str = "") -> None:
        """See `Int8Plans.write_next`."""
        self._found = self._quantization.next_plan(refusal)

    def finish(self) -> tuple[Int8, Int8Cost]:
        """See `Int8Plans.finish`."""
        assert self._found is not None
        record = self._quantization.finish(self._found).to_json()
        cost = Int8Cost(**{name: record.pop(name) for name in ("seconds", "peak_rss_bytes", "curve_ms")})
        return fields_from_json(Int8, {"kind": "static", **record}, "int8"), cost


class DynamicPlan:
    """The one way to quantise without frames, for ONNX Runtime alone: all linears, ranged anew for every image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._linears: tuple[str, ...] = ()

    def write_next(self, refusal: str = "") -> None:
        """See `Int8Plans.write_next`."""
        if refusal:
            raise ParityError(refusal)
        self._linears = quantize_dynamic(self._folder / graph_name("fp32"), self._folder / ORT_INT8_NAME)

    def finish(self) -> tuple[Int8, Int8Cost]:
        """See `Int8Plans.finish`."""
        return Int8(kind="dynamic", int8_nodes=len(self._linears), files=(ORT_INT8_NAME,)), Int8Cost()


def int8_targets(*, has_frames: bool, for_tensorrt: bool) -> tuple[Int8Target, ...]:
    """What the INT8 graphs are for; without frames they are quantised dynamically, for ONNX Runtime alone."""
    if for_tensorrt:
        return ("trt",)
    has_openvino = importlib.util.find_spec("openvino") is not None
    return ("ort", "openvino") if has_openvino and has_frames else ("ort",)


def ranging_of_frames(frames: FrameStore, seed: int, *, for_int8: bool) -> Photographs:
    """Frames that ranges of half precision are measured on; for INT8 such as do not judge it.

    Args:
        frames: of calibration.
        seed: of their division.
        for_int8: they are divided into those that calibrate, choose and judge.
    """
    usable = split_frames(frames.times_s, seed).calibration if for_int8 else range(len(frames))
    positions = usable[:RANGING_FRAMES]
    names = [f"sha256:{frames.hashes[position][:16]}" for position in positions]
    return Photographs(names=names, pixels=list(frames.pick(positions)))


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What TensorRT's INT8 graph has around its integers: it computes a tensor in the type that the graph gives it.

    Attributes:
        lowering: that has passed as a float graph; INT8 among fp32 would be slower than fp16.
        ranging: photographs that ranges are measured on.
        output: type of the features; None is fp32.
        keeps_opset: bf16 at the opset of the fp32 graph.
    """

    lowering: Lowering
    ranging: Photographs
    output: Half | None = None
    keeps_opset: bool = False


@dataclass(frozen=True, kw_only=True)
class MadeInt8:
    """INT8 graphs: how they were made, at what cost, what is known of each, and what they gain."""

    how: Int8
    cost: Int8Cost
    facts: dict[str, FileFacts]
    speed: Int8Speed | None = None


def first_proven(
    plans: Int8Plans, folder: Path, targets: Sequence[Int8Target], surroundings: Surroundings, prover: Prover
) -> MadeInt8:
    """The graphs of the first plan that PyTorch's photographs do not refuse; plan after plan is written and proven.

    Raises:
        ParityError: no choice of layers reaches the bounds.
        BuildError: a backend runs the result in floating point.
    """
    refusal = ""
    while True:
        plans.write_next(refusal)
        try:
            facts = {GRAPH_NAMES[target]: proven_int8(folder, target, surroundings, prover) for target in targets}
        except ParityError as error:
            refusal = str(error)
            prover.say(f"gave up an INT8 plan: {refusal}")
        else:
            how, cost = plans.finish()
            return MadeInt8(how=how, cost=cost, facts=facts)


def proven_int8(folder: Path, target: Int8Target, surroundings: Surroundings, prover: Prover) -> FileFacts:
    """Prove an INT8 graph on what will run it; TensorRT's gets its surroundings first.

    Raises:
        BuildError: it holds what it may not, or a backend refuses it.
        GateMissedError: it does not compute what PyTorch does.
    """
    path, lowering = folder / GRAPH_NAMES[target], surroundings.lowering
    judge = OpenVinoJudge() if target == "openvino" else OrtJudge()
    islands = None
    if target == "trt" and lowering.precision != "fp32":
        prover.say(f"typing {path.name}: {lowering.precision} around its integers")
        with prover.watch.timed("ranges"):
            islands = type_file(
                path,
                lowering,
                surroundings.ranging,
                path,
                output=surroundings.output,
                keeps_opset=surroundings.keeps_opset,
            )
        judge = RoundingJudge()
    facts = prover.graph(path, "int8", lowering.sampler, (judge,))
    return replace(facts, islands=islands)
