"""The reference that every artefact is compared with: the PyTorch model in fp32, from uint8 pixels on.

It is the student itself, not the fused module that is exported, so that folding, pinning and the fused pre-processing
are proven too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from brixel_edge.export.facts import Photographs, Stopwatch
from brixel_edge.model.spec import ModelSpec
from brixel_edge.network.student import Student
from brixel_edge.proof.parity import ParityReport, compare


def reference_features(
    student: Student, spec: ModelSpec, images: Sequence[NDArray[np.uint8]]
) -> list[NDArray[np.float32]]:
    """Features of uint8 images by PyTorch.

    Args:
        student: in evaluation mode.
        spec: says the channel order, mean and std.
        images: (1, H, W, 3) uint8 each.

    Returns:
        (1, D, h, w) each.
    """
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (spec.image.mean, spec.image.std))
    features = []
    with torch.inference_mode():
        for image in images:
            rgb = image[..., ::-1] if spec.image.channels == "BGR" else image
            pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2).float() / 255
            features.append(student((pixels - mean) / std).numpy())
    return features


@dataclass(kw_only=True)
class TorchReference:
    """What PyTorch makes of the proof's photographs, computed at its first use.

    Attributes:
        student: in evaluation mode.
        spec: of the model.
        photographs: of the proof.
        watch: is told what it takes.
    """

    student: Student
    spec: ModelSpec
    photographs: Photographs
    watch: Stopwatch

    @cached_property
    def features(self) -> list[NDArray[np.float32]]:
        """(1, D, h, w) of each photograph."""
        with self.watch.timed("reference"):
            return reference_features(self.student, self.spec, self.photographs.pixels)

    def compare(self, candidates: Sequence[NDArray[np.floating]]) -> ParityReport:
        """How far maps of the photographs are from PyTorch's.

        Raises:
            ParityError: maps of another shape.
        """
        return compare(self.features, candidates)
