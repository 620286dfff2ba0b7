"""Rotary positions of prefix and patches at once: timm's values bit by bit, and angles by complex numbers."""

import numpy as np
import pytest
import torch

from brixel_edge.model.backbones import BACKBONES, BackboneSpec
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.rotation import Rotation

PREFIX, PATCHES, WIDTH = 5, 9, 8
FAMILIES = {
    "dinov3": ("vit_small_patch16_dinov3", 16),
    "dinov2": ("vit_small_patch14_reg4_dinov2", 14),
    "siglip2": ("vit_base_patch16_siglip_256.v2_webli", 16),
    "pe": ("vit_pe_spatial_base_patch16_512", 16),
    "plain": ("vit_tiny_patch16_224", 16),
}


@pytest.mark.parametrize("is_half", [True, False])
def test_a_pair_of_channels_turns_by_its_angle_as_a_complex_number_does(is_half):
    random = np.random.default_rng(0)
    angles = random.uniform(-3, 3, (PATCHES, WIDTH // 2))
    x = random.standard_normal((1, 2, PREFIX + PATCHES, WIDTH)).astype(np.float32)
    spread = np.tile(angles, 2) if is_half else np.repeat(angles, 2, axis=1)
    table = torch.from_numpy(np.concatenate((np.sin(spread), np.cos(spread)), axis=1)).float()
    rotated = Rotation(table, PREFIX, is_half)(torch.from_numpy(x)).numpy()
    assert np.array_equal(rotated[:, :, :PREFIX], x[:, :, :PREFIX])
    pairs = (slice(0, WIDTH // 2), slice(WIDTH // 2, WIDTH)) if is_half else (slice(0, None, 2), slice(1, None, 2))
    before, after = (a[:, :, PREFIX:, pairs[0]] + 1j * a[:, :, PREFIX:, pairs[1]] for a in (x, rotated))
    assert np.allclose(after, before * np.exp(1j * angles), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pinned_backbone_of_any_family_gives_the_same_bits_as_timms_own_for_that_size(family, monkeypatch):
    name, patch_px = FAMILIES[family]
    overrides = (("embed_dim", 32), ("depth", 2), ("num_heads", 2))
    spec = BackboneSpec(
        timm_name=name, patch_px=patch_px, width=32, depth=2, tap_layers=(0, 1), licence="Apache-2.0",
        overrides=overrides,
    )  # fmt: skip
    monkeypatch.setitem(BACKBONES, "tiny", spec)
    backbone = load_backbone("tiny")
    size = 4 * patch_px, 6 * patch_px
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    backbone.vit.set_input_size(img_size=size)
    for module in backbone.vit.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with torch.no_grad():
        for ours, theirs in zip(backbone.pinned(*size)(image), backbone(image), strict=True):
            assert torch.equal(ours, theirs)


def test_pinning_leaves_the_backbone_itself_as_it_was():
    backbone = load_backbone("vit_mini_dinov3")
    pinned = backbone.pinned(64, 96)
    assert sum(isinstance(module, Rotation) for module in pinned.modules()) == backbone.spec.depth
    assert not any(isinstance(module, Rotation) for module in backbone.modules())
    assert backbone(torch.zeros(1, 3, 32, 32))[-1].shape == (1, 128, 2, 2)
