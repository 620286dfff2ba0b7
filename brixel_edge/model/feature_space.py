"""Which features may be compared: those of one set of weights, whatever engine, precision or image size gave them.

A vector of one model means nothing to another of the same width, and nothing would look wrong: there would only be no
match. So what is kept of features carries their space, and a map says of which it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.errors import BundleError
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.bundle import MANIFEST_NAME, Bundle, ResolvedModel, graph_name, open_bundle
from brixel_edge.model.halves import is_graph
from brixel_edge.model.onnx_file import DIGEST_KEY, read_onnx_metadata
from brixel_edge.model.receipt import Receipt


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """Where features live.

    Attributes:
        model: its name, for people.
        dim: D, the width of a feature.
        digests: of what decides a feature, of the weights, of the fp32 graph; one in common is enough, for graphs of
            earlier releases know the last alone.
    """

    model: str
    dim: int
    digests: tuple[str, ...]

    def is_that_of(self, other: FeatureSpace) -> bool:
        """Whether vectors of both may be compared."""
        return self.dim == other.dim and not set(self.digests).isdisjoint(other.digests)

    def __str__(self) -> str:
        return f"{self.model} ({self.dim} channels, {self.digests[0].partition(':')[2][:8]})"


def feature_space_of(resolved: ResolvedModel) -> FeatureSpace:
    """The space of a model's features.

    Args:
        resolved: a model directory's, or a bare graph; one that lies in its own directory counts as that.

    Raises:
        BundleError: no readable model.
    """
    bundle = open_bundle(resolved.root) if resolved.root is not None else _bundle_around(resolved.graph)
    digests = _of_bundle(bundle) if bundle is not None else (_of_graph(resolved.graph),)
    if resolved.spec.feature_digest is not None:  # whatever the image's size, and whether a head is there
        digests = (f"features:{resolved.spec.feature_digest}", *digests)
    return FeatureSpace(model=resolved.name, dim=resolved.spec.dim, digests=digests)


def _bundle_around(graph: Path) -> Bundle | None:
    """The model directory that a graph lies in and is listed by, unchanged."""
    if not graph.with_name(MANIFEST_NAME).is_file():
        return None
    with contextlib.suppress(BundleError):
        bundle = open_bundle(graph.parent)
        bundle.file(graph.name)
        return bundle
    return None


def _of_bundle(bundle: Bundle) -> tuple[str, ...]:
    digests = [of_weights] if (of_weights := _of_weights(bundle.receipt)) is not None else []
    graphs = [name for name in bundle.receipt.files if is_graph(name)]
    first = next((name for name in (graph_name("fp32"), *sorted(graphs)) if name in graphs), None)
    if first is not None and (bundle.root / first).is_file():
        digests.append(_of_graph(bundle.root / first))
    # A board may hold nothing but a plan.
    listed = {name: entry.sha256 for name, entry in bundle.receipt.files.items()}
    return tuple(digests) or (f"files:{_sha256_of_json(listed)}",)


def _of_weights(receipt: Receipt) -> str | None:
    """From the weight files and what is done with them; the image's size is no part of it. None for random weights."""
    spec, weights = receipt.spec, receipt.weights
    if weights.backbone is None or (weights.adapter is None and spec.adapter != "none"):
        return None
    record = {
        "backbone": spec.backbone, "patch_px": spec.patch_px, "dim": spec.dim, "tap_layers": list(spec.tap_layers),
        "adapter": spec.adapter, "mean": list(spec.image.mean), "std": list(spec.image.std),
        "weights": [file and file.sha256 for file in (weights.backbone, weights.adapter)],
    }  # fmt: skip
    return f"weights:{_sha256_of_json(record)}"


def _of_graph(graph: Path) -> str:
    """What the export wrote into it; graphs of earlier releases carry none."""
    return f"graph:{read_onnx_metadata(graph).get(DIGEST_KEY) or sha256_of(graph)}"


def _sha256_of_json(record: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
