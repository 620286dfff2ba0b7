"""The process that makes INT8 graphs of an exported directory, and proves them by the proof that travels.

Needs onnx, onnxruntime and ml_dtypes, no torch. Started as `python -m brixel_edge.commands.export_int8_making`, because
graph and frames would stay in memory beside the builder.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brixel_edge.commands.export_frames import times_beside
from brixel_edge.errors import BackendMissing
from brixel_edge.export.facts import FileFacts, Photographs, Stopwatch
from brixel_edge.machine.process import answering, ask
from brixel_edge.model.json_form import fields_from_json, fields_to_json
from brixel_edge.model.receipt_sections import Int8, Int8Cost, Lowering
from brixel_edge.model.spec import Half
from brixel_edge.proof.proof import load_proof

_MODULE = "brixel_edge.commands.export_int8_making"


@dataclass(frozen=True, kw_only=True)
class Int8Graphs:
    """INT8 graphs in a folder.

    Attributes:
        facts: what is known of each.
        how: they were quantised; None where they were there and got types around their integers alone.
        cost: of quantising.
    """

    facts: dict[str, FileFacts]
    how: Int8 | None = None
    cost: Int8Cost | None = None


@dataclass(frozen=True, kw_only=True)
class Int8Wish:
    """INT8 graphs that are to be made.

    Attributes:
        folder: holds graph.fp32.onnx, or graph.int8.trt.onnx with fp32 around its integers; all is written there.
        for_tensorrt: or for the CPU backends of this machine.
        lowering: that has passed as a float graph; its types stand around TensorRT's integers.
        proof: proof.npz.
        frames: .npy of calibration frames; None takes those of the proof that are not judged, for ranges.
        source: where the frames come from, for messages.
        quantises: from the fp32 graph; else the INT8 graph in the folder is typed.
        seed: of all that is random.
        output: type of the features; None is fp32.
        keeps_opset: bf16 at the opset of the fp32 graph.
    """

    folder: Path
    for_tensorrt: bool
    lowering: Lowering
    proof: Path
    frames: Path | None
    source: str | None
    quantises: bool
    seed: int
    output: Half | None
    keeps_opset: bool


def int8_graphs(wish: Int8Wish) -> Int8Graphs:
    """Make the graphs.

    Raises:
        BackendMissing: onnx or onnxruntime is not installed.
        SpecError: too few frames, or some that are the proof's.
        BuildError: a graph that is not valid, or a backend that runs it in floating point.
        ParityError: no choice of layers reaches the bounds.
    """
    return fields_from_json(Int8Graphs, ask(_MODULE, fields_to_json(wish), "making the INT8 graphs"))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        from brixel_edge.calib.disjoint import require_other_pictures
        from brixel_edge.calib.frames import Shot, store_shots
        from brixel_edge.calib.lowering.targets import GRAPH_NAMES
        from brixel_edge.commands.export_int8 import (
            StaticPlans,
            Surroundings,
            first_proven,
            int8_targets,
            proven_int8,
            ranging_of_frames,
        )
        from brixel_edge.export.making import ranging_photographs
        from brixel_edge.export.prove import Prover
    except ImportError as error:
        raise BackendMissing(
            f"making an INT8 graph needs {error.name}: pip install onnx onnxruntime ml_dtypes, or let the workstation "
            "make it: brixel-export ... --engine onnx-int8 --calib SRC"
        ) from error
    wish = fields_from_json(Int8Wish, request)
    proof = load_proof(wish.proof)
    photographs = Photographs(names=proof.names, pixels=[image[None] for image in proof.images])
    prover = Prover(photographs=photographs, compare=proof.compare, watch=Stopwatch(), say=_say)
    targets = int8_targets(has_frames=True, for_tensorrt=wish.for_tensorrt)

    def surroundings(ranging: Photographs) -> Surroundings:
        return Surroundings(lowering=wish.lowering, ranging=ranging, output=wish.output, keeps_opset=wish.keeps_opset)

    if not wish.quantises:
        around = surroundings(ranging_photographs(wish.frames and str(wish.frames), proof))
        facts = {GRAPH_NAMES[target]: proven_int8(wish.folder, target, around, prover) for target in targets}
        return fields_to_json(Int8Graphs(facts=facts))
    assert wish.frames is not None
    pixels, times_s = np.load(wish.frames, mmap_mode="r"), times_beside(wish.frames)
    shots = (Shot(image=np.asarray(image), t_s=t_s) for image, t_s in zip(pixels, times_s, strict=True))
    frames = store_shots(shots, pixels.shape[1:3])
    require_other_pictures(frames, wish.source or "", photographs.names, photographs.pixels, [])
    plans = StaticPlans(wish.folder, frames, targets, wish.seed, curve_points=0)
    around = surroundings(ranging_of_frames(frames, wish.seed, for_int8=True))
    made = first_proven(plans, wish.folder, targets, around, prover)
    return fields_to_json(Int8Graphs(facts=made.facts, how=made.how, cost=made.cost))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(answering(_answer))
