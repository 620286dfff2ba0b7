"""What a feature depends on, as a digest: heads and prototypes of one set of features mean nothing in another."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from brixel_edge.model.head_spec import FeatureOrigin
from brixel_edge.network.conv_adapter import ConvRefiner
from brixel_edge.network.student import Student


def digest_of_module(module: nn.Module) -> str:
    """Names a network by its weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()[:32]


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
    facts = [digest_of_module(student.backbone), layers, spec.patch_px, spec.mean, spec.std, adapter]
    if refiner is not None:
        facts += [digest_of_module(refiner), student.view_scale]
    return FeatureOrigin(
        digest=hashlib.sha256(repr(facts).encode()).hexdigest()[:32],
        backbone=name,
        adapter=adapter,
        dim=spec.width,
        tap_layers=spec.tap_layers,
    )
