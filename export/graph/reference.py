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
from brixel_edge.model.head import Head
from brixel_edge.model.spec import ModelSpec
from brixel_edge.network.student import Student
from brixel_edge.proof.parity import ParityReport
from brixel_edge.proof.references import Outputs, References


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
    """What PyTorch, and a head on its features, make of the proof's photographs, computed at its first use.

    Attributes:
        student: in evaluation mode.
        spec: of the model.
        photographs: of the proof.
        watch: is told what it takes.
        head: of the model; None without one. It is applied to whole features, not folded.
    """

    student: Student
    spec: ModelSpec
    photographs: Photographs
    watch: Stopwatch
    head: Head | None = None

    @cached_property
    def maps(self) -> References:
        """Of each photograph what the model gives: features, answers or both."""
        with self.watch.timed("reference"):
            features = reference_features(self.student, self.spec, self.photographs.pixels)
        return References(
            features=features if self.spec.has_features else None,
            answers=None if self.head is None else [self.head(values) for values in features],
            kind=None if self.head is None else self.head.spec.kind,
        )

    def compare(self, outputs: Sequence[Outputs]) -> ParityReport:
        """How far outputs of the photographs are from PyTorch's.

        Raises:
            ParityError: maps of another shape.
        """
        return self.maps.compare(outputs)
