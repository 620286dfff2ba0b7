"""The deployed graph as one module to read: uint8 pixels in, dense features out, or a head's answer, or both.

Everything that a device runs stands in `FusedModel.forward`, in order; the exporter only traces it. Sizes are fixed
when it is built, so that position tables and reference points are constants of the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brixel_edge.export.graph.folding import folded
from brixel_edge.model.head import Head
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.model.spec import AdapterKind, ChannelOrder, ImageSpec, ModelSpec
from brixel_edge.network.deformable import SamplerKind
from brixel_edge.network.feature_origin import feature_origin_of
from brixel_edge.network.head import HeadOnFeatures
from brixel_edge.network.student import Student, backbone_view


class FusedModel(nn.Module):
    """Pre-processing, backbone, adapter and head for one image size.

    Args:
        student: in evaluation mode; it is copied.
        spec: gives size, channel order, mean and std.
        sampler: lowering of deformable sampling.
        head: that `spec` speaks of; None without one. A linear one is folded into the refiner where the graph need not
            give the features.
    """

    def __init__(
        self, student: Student, spec: ModelSpec, sampler: SamplerKind = "gridsample", head: Head | None = None
    ) -> None:
        super().__init__()
        is_folded = head is not None and head.spec.is_linear and not spec.has_features and student.refiner is not None
        self.has_features = spec.has_features
        # Only while it is traced: the tapped maps follow the answers, so that they can be found in the graph.
        self.gives_taps = False
        self.head = None if head is None or is_folded else HeadOnFeatures(head)
        self.view_scale = student.view_scale
        height, width = spec.image.height // self.view_scale, spec.image.width // self.view_scale
        self.backbone = student.backbone.pinned(height, width)
        tokens = height // spec.patch_px, width // spec.patch_px
        self.refiner = (
            None
            if student.refiner is None
            else folded(student.refiner, sampler, *tokens, head=head if is_folded else None)
        )
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (spec.image.mean, spec.image.std))
        # (x / 255 - mean) / std as one multiplication and one addition
        self.scale: Tensor
        self.shift: Tensor
        self.rgb: Tensor
        self.register_buffer("scale", 1.0 / (255.0 * std))
        self.register_buffer("shift", -mean / std)
        order = (2, 1, 0) if spec.image.channels == "BGR" else (0, 1, 2)
        self.register_buffer("rgb", torch.tensor(order))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(1, H, W, 3) uint8 -> (1, D, h, w); a full frame is (1, 4H, 4W, 3).

        With a head its answer (1, K, h, w), behind the features where these are given too.
        """
        x = image.to(torch.float32).permute(0, 3, 1, 2)
        x = torch.index_select(x, 1, self.rgb)
        x = x * self.scale + self.shift
        maps = self.backbone(backbone_view(x, self.view_scale))
        features = maps[-1] if self.refiner is None else self.refiner(x, maps)
        if self.head is None:
            answers = (features,)  # or the answer of a head that is folded in
        else:
            answers = (features, self.head(features)) if self.has_features else (self.head(features),)
        if self.gives_taps:
            return (*answers, *maps)
        return answers if len(answers) == 2 else answers[0]


def spec_from_student(
    student: Student,
    height: int,
    width: int,
    adapter: AdapterKind,
    channels: ChannelOrder = "BGR",
    *,
    name: str,
    head: HeadSpec | None = None,
) -> ModelSpec:
    """The spec of a student at one image size [px]; `name` is what the user calls the backbone, `head` what it answers.

    Raises:
        SpecError: a size that does not fit the patch.
    """
    backbone = student.backbone.spec
    # ModelSpec and ImageSpec look themselves at what a command line gives.
    return ModelSpec(
        backbone=name,
        patch_px=backbone.patch_px,
        dim=backbone.width,
        tap_layers=backbone.tap_layers,
        adapter=adapter,
        image=ImageSpec(
            height=height,
            width=width,
            mean=backbone.mean,
            std=backbone.std,
            channels=channels,
        ),
        grid=student.grid(height, width),
        licence=backbone.licence,
        trained=student.trained,
        feature_digest=feature_origin_of(student, name).digest,
        head=head,
    )
