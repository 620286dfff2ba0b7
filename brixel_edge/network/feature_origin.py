"""What a feature depends on, as a digest: heads and prototypes of one set of features mean nothing in another."""

from __future__ import annotations

import hashlib

from brixel_edge.model.head_spec import FeatureOrigin
from brixel_edge.network.conv_adapter import ConvRefiner
from brixel_edge.network.student import Student
from brixel_edge.network.weights_hash import weights_hash


def feature_origin_of(student: Student, name: str) -> FeatureOrigin:
    """The features that a student gives, at whatever size.

    Args:
        student: in evaluation mode.
        name: what the user calls the backbone.
    """
    spec, refiner = student.backbone.spec, student.refiner
    adapter = "none" if refiner is None else "conv" if isinstance(refiner, ConvRefiner) else "brixel"
    # Without a refiner the last tapped layer alone is read.
    layers = spec.tap_layers if refiner is not None else spec.tap_layers[-1:]
    facts = [weights_hash(student.backbone), layers, spec.patch_px, spec.mean, spec.std, adapter]
    if refiner is not None:
        facts += [weights_hash(refiner), student.view_scale]
    return FeatureOrigin(
        digest=hashlib.sha256(repr(facts).encode()).hexdigest()[:32],
        backbone=name,
        adapter=adapter,
        dim=spec.width,
        tap_layers=spec.tap_layers,
    )
