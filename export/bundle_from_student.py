"""Student -> model directory: graph, proof and receipt, or nothing at all.

The directory is built under a temporary name and takes its place only when every gate has been passed.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from brixel_edge.bundle import graph_name, sha256_of, staged_directory, write_manifest
from brixel_edge.deformable import SamplerKind
from brixel_edge.export.fuse import FusedModel
from brixel_edge.export.reference import reference_features
from brixel_edge.export.to_onnx import OUTPUT_NAME, onnx_from_model
from brixel_edge.parity import ParityReport, check_gate, compare
from brixel_edge.spec import ModelSpec
from brixel_edge.student import Student

TOOLS = (
    "brixel-edge",
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxsim",
    "onnxruntime",
    "numpy",
    "opencv-python-headless",
)

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ProofImages:
    """The photographs of the proof.

    Attributes:
        names: file names, for the receipt.
        pixels: (1, H, W, 3) uint8 each, at the graph's size.
    """

    names: Sequence[str]
    pixels: Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class WeightSources:
    """Which files the weights came from; None where they are seeded random or fetched by timm."""

    backbone: Path | None = None
    adapter: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """File names (not folders) and their sha256."""
        return {
            kind: {"file": path.name, "sha256": sha256_of(path)} if path else None
            for kind, path in (("backbone", self.backbone), ("adapter", self.adapter))
        }


def bundle_from_student(
    student: Student,
    spec: ModelSpec,
    out: Path,
    *,
    images: ProofImages,
    sources: WeightSources,
    sampler: SamplerKind = "gridsample",
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Write `out`, a model directory with graph.fp32.onnx, proven equal to PyTorch.

    Returns:
        the receipt, as written to model.json.

    Raises:
        BuildError: the graph could not be made.
        ParityError: it does not compute what PyTorch does; nothing is left at `out`.
    """
    with staged_directory(out) as stage:
        graph = stage / graph_name("fp32")
        progress("tracing the fused model")
        census = onnx_from_model(FusedModel(student, spec, sampler).eval(), spec, graph)
        progress(f"comparing with PyTorch on {len(images.pixels)} photographs")
        report = parity_of_graph(graph, student, spec, images.pixels)
        check_gate(report, "fp32", graph.name)
        return write_manifest(
            stage,
            spec,
            {
                "weights": sources.to_json(),
                "sampler": sampler,
                "census": {graph.name: census.to_json()},
                "parity": {graph.name: {"backend": "onnxruntime", "images": list(images.names), **report.to_json()}},
                "tools": tool_versions(),
            },
        )


def parity_of_graph(
    graph: Path, student: Student, spec: ModelSpec, images: Sequence[NDArray[np.uint8]]
) -> ParityReport:
    """Compare a graph in ONNX Runtime (CPU) with the PyTorch reference."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    candidates = [session.run([OUTPUT_NAME], {"image": image})[0] for image in images]
    return compare(reference_features(student, spec, images), candidates)  # type: ignore[arg-type]


def tool_versions() -> dict[str, str]:
    """Versions of what made the artefacts."""
    versions = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
