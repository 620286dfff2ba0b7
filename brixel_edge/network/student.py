"""Backbone and refiner together: the student, which gives the dense map.

A refiner takes the image and the tapped maps and gives (B, D, 4h, 4w): the paper's, or ours for small devices. Ours may
read the full frame, four times the backbone's view on each side; the view is then made here, by averaging 4 x 4 pixels.
Without a refiner the model is the backbone's own coarse map, the baseline.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.adapters import FULL_FRAME_SCALE, ConvSettings, check_multiple, size_step_px
from brixel_edge.model.spec import AdapterKind
from brixel_edge.network.adapter import BrixelRefiner
from brixel_edge.network.backbone import RANDOM, Backbone
from brixel_edge.network.conv_adapter import ConvRefiner
from brixel_edge.network.official_weights import adapter_file
from brixel_edge.network.weights import read_adapter, strict_load

UPSCALE = 4


class Student(nn.Module):
    """Frozen backbone and trainable refiner.

    Args:
        backbone: frozen.
        refiner: None for the backbone's own map.
        trained: whether the refiner's weights come from training.
    """

    def __init__(self, backbone: Backbone, refiner: nn.Module | None, trained: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.refiner = refiner
        self.trained = backbone.trained and (trained or refiner is None)
        if isinstance(refiner, ConvRefiner):
            refiner.adopt(backbone.vit)

    @property
    def view_scale(self) -> int:
        """Pixels of the image per pixel of the backbone's view, a side: 4 for a refiner that reads the full frame."""
        return FULL_FRAME_SCALE if isinstance(self.refiner, ConvRefiner) and self.refiner.settings.full_frame else 1

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> features, (B, D, 4h, 4w), or (B, D, h, w) without a refiner.

        A full frame is (B, 3, 4H, 4W), for the same features.
        """
        with torch.no_grad():
            maps = self.backbone(backbone_view(image, self.view_scale))
        return maps[-1] if self.refiner is None else self.refiner(image, maps)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the output for an image size [px].

        Raises:
            SpecError: a size that does not fit the patch. The paper's refiner halves the token grid, so it needs an
                even number of tokens a side (multiples of 32 px for patch 16); a full frame is four times the view.
        """
        patch = self.backbone.spec.patch_px * self.view_scale
        kind: AdapterKind = "brixel" if isinstance(self.refiner, BrixelRefiner) else "conv"
        check_multiple(height, width, size_step_px(kind, patch))
        scale = 1 if self.refiner is None else UPSCALE
        return height // patch * scale, width // patch * scale


def backbone_view(image: Tensor, scale: int) -> Tensor:
    """What the backbone sees of an image: all of it, or means of scale x scale pixels.

    Plain averaging, because TensorRT refuses an antialiased Resize. It commutes with the normalisation of pixels.
    """
    return image if scale == 1 else functional.avg_pool2d(image, scale)


def build_refiner(
    dim: int, taps: int, adapter: AdapterKind = "brixel", seed: int = 0, conv: ConvSettings | None = None
) -> nn.Module | None:
    """An untrained refiner with seeded weights, independent of torch's global generator.

    Args:
        dim: D, the backbone's width.
        taps: how many ViT layers are read.
        adapter: kind of refiner; None comes back for `none`.
        seed: of the weights.
        conv: settings of the kind `conv`; None for its defaults.

    Raises:
        SpecError: a width or a kind that cannot be.
    """
    if adapter == "none":
        return None
    if adapter not in get_args(AdapterKind):
        raise SpecError(f"adapter {adapter!r} is not one of {', '.join(get_args(AdapterKind))}")
    if adapter == "brixel" and dim % 32:
        raise SpecError(
            f"width {dim} is not a multiple of 32, which the adapter's GroupNorm and 16 heads need; use --adapter conv"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BrixelRefiner(dim, taps) if adapter == "brixel" else ConvRefiner(dim, taps, conv or ConvSettings())


def load_student(
    backbone: Backbone,
    weights: str | Path,
    adapter: AdapterKind = "brixel",
    seed: int = 0,
    conv: ConvSettings | None = None,
) -> Student:
    """A student with trained, or with seeded random, refiner weights, in evaluation mode.

    Args:
        backbone: frozen.
        weights: an adapter file of ours or of the authors', `official` for the authors' (fetched), or `random`.
        adapter: kind of refiner; `none` ignores `weights`.
        seed: of random weights.
        conv: settings of random weights of the kind `conv`; a file says its own.

    Raises:
        BundleError: a file that is of another backbone or adapter.
    """
    dim, taps = backbone.spec.width, len(backbone.spec.tap_layers)
    if adapter == "none" or weights == RANDOM:
        return Student(backbone, build_refiner(dim, taps, adapter, seed, fitting_conv(backbone, conv))).eval()
    path = Path(adapter_file(backbone.spec, weights))
    state, metadata = read_adapter(path)
    _check_metadata(metadata, backbone, adapter, path)
    refiner = build_refiner(dim, taps, adapter, seed, _conv_settings(metadata, path) if adapter == "conv" else None)
    assert refiner is not None
    student = Student(backbone, refiner, trained=metadata.get("trained", True) is True)
    strict_load(refiner, state, path)  # last: a conv adapter's unit is the file's
    return student.eval()


def fitting_conv(backbone: Backbone, conv: ConvSettings | None) -> ConvSettings | None:
    """Settings of a new conv adapter; a full frame is seen through a texture stem where the backbone has one."""
    if conv is None or not conv.full_frame or not backbone.spec.has_texture_stem:
        return conv
    return dataclasses.replace(conv, texture_stem=True)


def adapter_metadata(student: Student) -> dict[str, object]:
    """What an adapter file says of itself, for `save_adapter`: all that is needed to build and to check it again."""
    spec, refiner = student.backbone.spec, student.refiner
    metadata: dict[str, object] = {"adapter": "none", "dim": spec.width, "tap_layers": list(spec.tap_layers)}
    if isinstance(refiner, ConvRefiner):
        return metadata | {"adapter": "conv", **dataclasses.asdict(refiner.settings)}
    return metadata | ({"adapter": "brixel"} if refiner is not None else {})


def _conv_settings(metadata: dict[str, object], path: Path) -> ConvSettings:
    """Settings of a conv adapter, from its file; all must be there."""
    try:
        # ConvSettings looks at the types of its values itself.
        return ConvSettings(
            width=cast(int, metadata["width"]),
            full_frame=cast(bool, metadata["full_frame"]),
            texture_stem=cast(bool, metadata.get("texture_stem", False)),
        )
    except KeyError as error:
        raise BundleError(
            f"{path} says no {error} of its conv adapter; it is of another kind or another release"
        ) from error


def _check_metadata(metadata: dict[str, object], backbone: Backbone, adapter: str, path: Path) -> None:
    """What an adapter file says of itself must be what it is used for."""
    ours = {"adapter": adapter, "dim": backbone.spec.width, "tap_layers": list(backbone.spec.tap_layers)}
    for key, value in ours.items():
        if key in metadata and metadata[key] != value:
            raise BundleError(
                f"{path} was trained with {key} {metadata[key]}, here it is {value}; name what it was trained with"
            )
