"""What a model is: the image it takes, the map it gives, and where its weights come from.

Knows nothing of files, frameworks or devices. All types are frozen and are checked when built, so that a spec that
exists is a spec that can be. Letters: H, W image pixels; h, w feature grid; D feature width.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.head_spec import FeatureOrigin, HeadSpec
from brixel_edge.model.json_form import fields_from_json, fields_to_json

ChannelOrder = Literal["BGR", "RGB"]
AdapterKind = Literal["brixel", "conv", "none"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Half = Literal["fp16", "bf16"]
# Lowerings of deformable sampling. Materialised is gridsample whose samples the exported graph also gives as outputs,
# so that no builder can fuse the sampling with what reads it (wrong in TensorRT 10.14 and later, NVIDIA/TensorRT
# #4813). To torch it is the same.
SamplerKind = Literal["gridsample", "gather", "materialised"]

SPEC_VERSION = 1
FEATURES, ANSWER = "features", "head"  # names of a graph's outputs
UNTRAINED_NOTICE = "untrained weights: speed and parity are real, the features are not"


def parse_size(text: str) -> tuple[int, int]:
    """Read `HEIGHTxWIDTH` (pixels), for instance `256x448`; a single number is a square.

    Raises:
        SpecError: `text` is not of that form.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise SpecError(f"size {text!r} is not HEIGHTxWIDTH in pixels; for instance 256x256 or 256x448")
    return int(parts[0]), int(parts[-1])


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The image that a graph takes: uint8 (1, height, width, 3).

    Attributes:
        height: [px].
        width: [px].
        mean: of (R, G, B), in [0, 1] units; subtracted inside the graph.
        std: of (R, G, B), in [0, 1] units; divided by inside the graph.
        channels: order of the last axis; OpenCV delivers BGR.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: ChannelOrder = "BGR"

    def __post_init__(self) -> None:
        if self.height <= 0 or self.width <= 0:
            raise SpecError(f"image size {self.height}x{self.width} is not positive; give HEIGHTxWIDTH in pixels")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise SpecError(f"mean {self.mean} and std {self.std} must be three numbers each, std above zero")
        if self.channels not in get_args(ChannelOrder):
            raise SpecError(f"channel order {self.channels!r} is not one of {', '.join(get_args(ChannelOrder))}")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A fused model, from uint8 pixels to dense features.

    Attributes:
        backbone: its name in the table of `brixel_edge.model.backbones`, or a timm name.
        patch_px: side of a ViT token [px of the backbone's view].
        dim: D, the width of a feature.
        tap_layers: the ViT blocks, counted from 0, whose maps the adapter reads.
        adapter: `brixel` (the paper's), `conv` (ours) or `none` (the backbone's own map, the baseline).
        image: what the graph takes.
        grid: (h, w) of the output `features` (1, D, h, w).
        licence: of the weights, as their publisher names it.
        trained: False for seeded random weights; then every place that shows features says so.
        feature_digest: of everything that decides a feature, so that a head knows its own; None in earlier releases.
        head: what the graph answers; None where it gives the features alone.
    """

    backbone: str
    patch_px: int
    dim: int
    tap_layers: tuple[int, ...]
    adapter: AdapterKind
    image: ImageSpec
    grid: tuple[int, int]
    licence: str
    trained: bool = True
    feature_digest: str | None = field(default=None, compare=False)
    head: HeadSpec | None = None

    def __post_init__(self) -> None:
        if self.adapter not in get_args(AdapterKind):
            raise SpecError(f"adapter {self.adapter!r} is not one of {', '.join(get_args(AdapterKind))}")
        if min(self.grid) <= 0 or self.dim <= 0 or self.patch_px <= 0:
            raise SpecError(f"grid {self.grid}, width {self.dim} and patch {self.patch_px} must be positive")
        if list(self.tap_layers) != sorted(set(self.tap_layers)) or min(self.tap_layers, default=0) < 0:
            raise SpecError(
                f"tapped layers {self.tap_layers} must be rising block numbers from 0; for instance 3,6,9,11"
            )

    @property
    def stride_px(self) -> tuple[float, float]:
        """Input pixels between neighbouring cells, (y, x)."""
        return self.image.height / self.grid[0], self.image.width / self.grid[1]

    @property
    def digest(self) -> str:
        """sha256 of this spec, by which features are known to be of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def has_features(self) -> bool:
        """Whether the graph gives the features themselves."""
        return self.head is None or self.head.keeps_features

    @property
    def outputs(self) -> dict[str, tuple[int, int, int, int]]:
        """Shape of each output of the graph, in order."""
        shapes = {}
        if self.has_features:
            shapes[FEATURES] = (1, self.dim, *self.grid)
        if self.head is not None:
            shapes[ANSWER] = (1, self.head.outputs, *self.grid)
        return shapes

    @property
    def outputs_line(self) -> str:
        """For people: `features (1, 384, 64, 64), head (1, 11, 64, 64): 11 classes`."""
        shapes = ", ".join(f"{name} {shape}" for name, shape in self.outputs.items())
        return shapes if self.head is None else f"{shapes}: {self.head.label}"

    @property
    def feature_origin(self) -> FeatureOrigin | None:
        """The features that the model gives; None for a graph of an earlier release, which does not say."""
        if self.feature_digest is None:
            return None
        return FeatureOrigin(
            digest=self.feature_digest,
            backbone=self.backbone,
            adapter=self.adapter,
            dim=self.dim,
            tap_layers=self.tap_layers,
        )

    def to_json(self) -> dict[str, Any]:
        """This spec as plain JSON values, with the version of the form."""
        return {"spec_version": SPEC_VERSION, **fields_to_json(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ModelSpec:
        """Read what `to_json` wrote.

        Raises:
            SpecError: a field is missing, unknown or of another version.
        """
        fields = dict(record) if isinstance(record, dict) else {}
        version = fields.pop("spec_version", None)
        if version != SPEC_VERSION:
            raise SpecError(f"model spec has version {version!r}, this release reads {SPEC_VERSION}; export it again")
        try:
            return fields_from_json(cls, fields)
        except BundleError as error:
            raise SpecError(f"model spec is not readable ({error}); export the model again") from error
