"""The backbone: DINOv3's shape as timm builds it, with our patch embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brixel_edge.model.backbones import IMAGENET_MEAN, IMAGENET_STD, backbone_spec
from brixel_edge.network.backbone import create_vit

MEAN = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
STD = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
PATCH_PX = 16
NAME = "vit_nano_dinov3"


def build(seed: int = 0) -> Any:
    """The backbone of the table with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_vit(backbone_spec(NAME))


def normalise(images: Tensor) -> Tensor:
    """Bytes (B, H, W, 3) to the network's input (B, 3, H, W)."""
    return (images.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def embed(vit: Any, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None) -> tuple[Tensor, Any]:
    """What enters the first block: (B, prefix + h * w, D) and the rotations.

    Args:
        vit: from `build`.
        images: normalised, (B, 3, H, W).
        mask: (B, h, w), true where `mask_token` stands instead of the patch.
        mask_token: (D,).
    """
    x = vit.patch_embed(images)
    if mask is not None and mask_token is not None:
        x = torch.where(mask[..., None], mask_token.to(x.dtype), x)
    return vit._pos_embed(x)


def tokens(vit: Any, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
    """Patch tokens after the last norm, (B, h * w, D); arguments as of `embed`."""
    x, rope = embed(vit, images, mask, mask_token)
    for block in vit.blocks:
        x = block(x, rope=rope)
    return vit.norm(x)[:, vit.num_prefix_tokens :]
