"""Heads on features of small students, with numbers that no training made."""

from __future__ import annotations

import numpy as np

from brixel_edge.model.head import Head, distinct_colours
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.network.feature_origin import feature_origin_of


def head_of(student, kind="segmentation", outputs=5, name="tiny", **changes) -> Head:
    """A head of some kind that reads the features of a student."""
    origin = feature_origin_of(student, name)
    outputs = 1 if kind == "depth" else outputs
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(outputs, origin.dim)).astype(np.float32) / origin.dim**0.5
    bias = rng.normal(size=outputs).astype(np.float32)
    if kind == "prototypes":
        weight, bias = weight / np.linalg.norm(weight, axis=1, keepdims=True), np.zeros(outputs, np.float32)
    has_classes = kind in ("segmentation", "prototypes")
    spec = HeadSpec(
        kind=kind,
        outputs=outputs,
        classes=tuple(f"class {number}" for number in range(outputs)) if has_classes else (),
        colours=distinct_colours(outputs) if has_classes else (),
        **changes,
    )
    return Head(spec=spec, weight=weight, bias=bias, origin=origin)
