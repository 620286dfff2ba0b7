"""The patch embedding that averages small filters."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from brixel_edge.model.backbones import backbone_spec
from brixel_edge.network.backbone import create_vit, load_backbone
from brixel_edge.network.texture_stem import CHANNELS, EDGES, FILTERS, TextureStem

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def stem():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = TextureStem(8, MEAN, STD).requires_grad_(False)
        stem.threshold.normal_()
    return stem


def _picture(height=32, width=48, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _normalised(picture):
    return (picture - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def _responses_by_hand(stem, picture, index, scale, rows, columns):
    """Mean of one filter's rectified answers at the given corners of its 6 x 6 window; away from the border."""
    answers = []
    for y in rows:
        for x in columns:
            window = picture[0, :, y - 2 : y + 4, x - 2 : x + 4]
            contrast = (window.var(unbiased=False) + 0.02**2).sqrt()
            answers.append((window * stem.filters.weight[index]).sum() / contrast - stem.threshold[scale, index])
    return torch.stack(answers).clamp_min(0).mean()


def test_texture_is_the_root_of_mean_answers_to_normalised_surroundings(stem):
    picture = _picture()
    texture = stem.texture(_normalised(picture))
    assert texture.shape == (1, CHANNELS, 4, 6)
    half = functional.avg_pool2d(picture, 2)
    for index in (0, 7, 50):  # the quarter in row 1, column 2 begins at (8, 16)
        fine = _responses_by_hand(stem, picture, index, 0, range(8, 16, 2), range(16, 24, 2))
        assert texture[0, index, 1, 2].item() == pytest.approx((fine + 1e-4).sqrt().item(), abs=1e-4)
        coarse = _responses_by_hand(stem, half, index, 1, (4, 6), (8, 10))
        assert texture[0, FILTERS + index, 1, 2].item() == pytest.approx((coarse + 1e-4).sqrt().item(), abs=1e-4)


def test_texture_holds_colours_and_their_deviations(stem):
    picture = _picture()
    texture = stem.texture(_normalised(picture))
    quarter = picture[0, :, 8:16, 16:24].flatten(1)
    deviation = texture[0, 2 * FILTERS + EDGES : -3, 1, 2]
    assert torch.allclose(deviation, (quarter.var(1, unbiased=False) + 1e-4).sqrt(), atol=1e-4)
    assert torch.allclose(texture[0, -3:, 1, 2], quarter.mean(1), atol=1e-5)


def test_contrast_does_not_change_the_filters_but_the_edges(stem):
    picture = _picture()
    stem.filters.weight.sub_(stem.filters.weight.mean((1, 2, 3), keepdim=True))  # blind to brightness, as k-means' are
    strong, weak = (
        stem.texture(_normalised(0.5 + part * (picture - 0.5)))[..., 1:-1, 1:-1]  # beyond the border it is black
        for part in (1.0, 0.5)
    )
    ratio = (weak[:, :FILTERS] - strong[:, :FILTERS]).abs().mean() / strong[:, :FILTERS].mean()
    edges = slice(2 * FILTERS, 2 * FILTERS + EDGES)
    assert ratio < 0.05
    assert weak[:, edges].mean() < 0.9 * strong[:, edges].mean()


def test_tokens_are_patches_and_texture_together(stem):
    image = _normalised(_picture())
    whole, patches = stem(image), stem.patch(image)
    assert whole.shape == (1, 8, 2, 3)
    assert not torch.allclose(whole, patches)
    stem.mix.weight.zero_()
    assert torch.equal(stem(image), patches)


def test_brixel_nano_is_small_and_loads_strictly(tmp_path):
    vit = create_vit(backbone_spec("vit_nano_dinov3"))
    assert isinstance(vit.patch_embed.proj, TextureStem)
    assert sum(parameter.numel() for parameter in vit.parameters()) <= 6_000_000
    save_file(vit.state_dict(), tmp_path / "nano.safetensors")
    backbone = load_backbone("vit_nano_dinov3", tmp_path / "nano.safetensors")
    image = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(2))
    maps = backbone(image)
    assert [tuple(one.shape) for one in maps] == [(1, 384, 4, 5)] * 3
    for one, other in zip(maps, backbone.pinned(64, 80)(image), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
