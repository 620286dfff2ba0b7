"""Backbone and refiner together: the student, which gives the dense map.

A refiner takes the image and the tapped maps and gives (B, D, 4h, 4w). The paper's is adapter and head; others are
further rows of `build_refiner`. Without a refiner the model is the backbone's own coarse map, the baseline.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from brixel_edge.adapter import BrixelAdapter
from brixel_edge.backbone import RANDOM, Backbone, check_multiple
from brixel_edge.errors import BundleError, SpecError
from brixel_edge.head import BrixelHead
from brixel_edge.spec import AdapterKind
from brixel_edge.weights import read_adapter, strict_load

UPSCALE = 4


class BrixelRefiner(nn.Module):
    """The paper's adapter and head.

    Args:
        dim: D, the backbone's width; a multiple of 32.
        taps: how many ViT layers are read.
    """

    def __init__(self, dim: int, taps: int = 4) -> None:
        super().__init__()
        self.adapter = BrixelAdapter(dim, taps)
        self.head = BrixelHead(dim)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """(B, 3, H, W) normalised and the tapped (B, D, h, w) maps -> (B, D, 4h, 4w)."""
        return self.head(self.adapter(image, maps), maps[-1])


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

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> features, (B, D, 4h, 4w), or (B, D, h, w) without a refiner."""
        with torch.no_grad():
            maps = self.backbone(image)
        return maps[-1] if self.refiner is None else self.refiner(image, maps)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the output for an image size [px].

        Raises:
            SpecError: a size that does not fit the patch; the paper's refiner halves the token grid, so it needs an
                even number of tokens a side (multiples of 32 px for patch 16).
        """
        patch = self.backbone.spec.patch_px
        check_multiple(height, width, patch if self.refiner is None else 2 * patch)
        scale = 1 if self.refiner is None else UPSCALE
        return height // patch * scale, width // patch * scale


def build_refiner(dim: int, taps: int, adapter: AdapterKind = "brixel", seed: int = 0) -> nn.Module | None:
    """An untrained refiner with seeded weights, independent of torch's global generator.

    Raises:
        SpecError: a width or a kind that cannot be.
    """
    if adapter == "none":
        return None
    if adapter != "brixel":
        raise SpecError(f"adapter {adapter!r} is not one of brixel, none")
    if dim % 32:
        raise SpecError(f"width {dim} is not a multiple of 32, which the adapter's GroupNorm and 16 heads need")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BrixelRefiner(dim, taps)


def load_student(backbone: Backbone, weights: str | Path, adapter: AdapterKind = "brixel", seed: int = 0) -> Student:
    """A student with trained, or with seeded random, refiner weights, in evaluation mode.

    Args:
        backbone: frozen.
        weights: an adapter file of ours or of the authors', or `random`.
        adapter: kind of refiner; `none` ignores `weights`.
        seed: of random weights.

    Raises:
        BundleError: a file that is of another backbone or adapter.
    """
    spec = backbone.spec
    refiner = build_refiner(spec.width, len(spec.tap_layers), adapter, seed)
    if refiner is None or weights == RANDOM:
        return Student(backbone, refiner).eval()
    path = Path(weights)
    state, metadata = read_adapter(path)
    _check_metadata(metadata, backbone, adapter, path)
    strict_load(refiner, state, path)
    return Student(backbone, refiner, trained=metadata.get("trained", True) is True).eval()


def _check_metadata(metadata: dict[str, object], backbone: Backbone, adapter: str, path: Path) -> None:
    """What an adapter file says of itself must be what it is used for."""
    ours = {"adapter": adapter, "dim": backbone.spec.width, "tap_layers": list(backbone.spec.tap_layers)}
    for key, value in ours.items():
        if key in metadata and metadata[key] != value:
            raise BundleError(
                f"{path} was trained with {key} {metadata[key]}, here it is {value}; name what it was trained with"
            )
