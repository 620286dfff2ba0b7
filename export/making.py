"""The graph-making process: an fp32 graph of a model directory in half precision, and what it computes on the proof.

Needs onnx, onnxruntime and ml_dtypes, no torch: a board makes what the workstation left out. A process of its own
(`python -m brixel_edge.export.making`), because the graph and its ranges would stay in memory beside the builder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brixel_edge.errors import BackendMissing, SpecError
from brixel_edge.export.facts import FileFacts, Photographs
from brixel_edge.export.gate import passed
from brixel_edge.machine.process import answering, ask
from brixel_edge.model.json_form import fields_from_json, fields_to_json
from brixel_edge.model.receipt_sections import Census, Islands, Lowering
from brixel_edge.model.spec import Half
from brixel_edge.proof.parity import ParityReport
from brixel_edge.proof.proof import Proof, load_proof

_MODULE = "brixel_edge.export.making"


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What the process answers."""

    census: Census
    precisions: dict[str, dict[str, int]]
    islands: Islands
    reports: dict[str, ParityReport]


def half_graph(
    source: Path,
    lowering: Lowering,
    out: Path,
    *,
    proof: Path,
    photographs: Sequence[str],
    ranging: Path | None,
    output: Half | None = None,
    keeps_opset: bool = False,
) -> FileFacts:
    """Make the graph of a lowering, and let it pass its gate.

    Args:
        source: graph.fp32.onnx.
        lowering: fp16 or bf16.
        out: file to write.
        proof: that it is compared with.
        photographs: names of the proof's.
        ranging: .npy of (n, H, W, 3) uint8 photographs that ranges are measured on; None takes those of the proof that
            are not judged.
        output: type of the features; None is fp32.
        keeps_opset: bf16 at the opset of the fp32 graph.

    Raises:
        BackendMissing: onnx or onnxruntime is not installed.
        SpecError: no photographs to measure ranges on.
        BuildError: the graph is not valid.
        GateMissedError: it does not compute what PyTorch does.
    """
    request = {
        "source": str(source.resolve()),
        "lowering": fields_to_json(lowering),
        "out": str(out.resolve()),
        "proof": str(proof.resolve()),
        "ranging": None if ranging is None else str(ranging.resolve()),
        "output": output,
        "keeps_opset": keeps_opset,
    }
    made = fields_from_json(_Made, ask(_MODULE, request, f"writing {out.name}"))
    return FileFacts(
        sampler=lowering.sampler,
        census=made.census,
        precisions=made.precisions,
        islands=made.islands,
        parity=passed(out.name, lowering.precision, made.reports, photographs),
    )


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        import onnx

        from brixel_edge.export.graph.census import assert_census
        from brixel_edge.export.half.typed import type_file
        from brixel_edge.export.judges import default_judges
        from brixel_edge.model.graph_facts import graph_facts
    except ImportError as error:
        raise BackendMissing(
            f"making a graph needs {error.name}: pip install onnx onnxruntime ml_dtypes, or let the workstation make "
            "it: brixel-export ... --engine onnx-fp16,onnx-bf16"
        ) from error
    lowering, out = fields_from_json(Lowering, {"islands": None, **request["lowering"]}), Path(request["out"])
    proof = load_proof(Path(request["proof"]))
    islands = type_file(
        Path(request["source"]),
        lowering,
        ranging_photographs(request["ranging"], proof),
        out,
        output=request["output"],
        keeps_opset=request["keeps_opset"],
    )
    census = assert_census(onnx.shape_inference.infer_shapes(onnx.load(str(out))), lowering.precision)
    images = [image[None] for image in proof.images]
    reports = {judge.name: proof.compare(judge.outputs(out, images)) for judge in default_judges(lowering.precision)}
    precisions = graph_facts(out).operator_types
    return fields_to_json(_Made(census=census, precisions=precisions, islands=islands, reports=reports))


def ranging_photographs(path: str | None, proof: Proof) -> Photographs:
    """Photographs that the proof does not judge: of a file, or those that travel with it.

    Raises:
        SpecError: there are none.
    """
    stored = proof.ranging if path is None else np.load(path)
    if stored is None:
        raise SpecError(
            "proof.npz is of an earlier release and has no photographs to measure ranges on; give --calib SRC, a "
            "folder of images, a video or a camera"
        )
    label = "proof.npz" if path is None else "calib"
    names = [f"{label}:{index}" for index in range(len(stored))]
    return Photographs(names=names, pixels=[image[None] for image in stored])


if __name__ == "__main__":
    sys.exit(answering(_answer))
