"""The fused module against the student with pre-processing written out: channel order, folding, sizes, samplers."""

import numpy as np
import pytest
import torch
from torch import nn

from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
from brixel_edge.export.graph.reference import reference_features
from brixel_edge.model.backbones import BACKBONES
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.student import Student, load_student


@pytest.fixture(scope="module")
def student() -> Student:
    """Random weights, with BatchNorm statistics that folding must not lose."""
    student = load_student(load_backbone("vit_mini_dinov3"), "random")
    generator = torch.Generator().manual_seed(0)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return student


def by_hand(student: Student, rgb: np.ndarray) -> np.ndarray:
    spec = student.backbone.spec
    pixels = (rgb.astype(np.float64) / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        return student(torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None].contiguous()).numpy()


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
@pytest.mark.parametrize("sampler", ["gridsample", "gather"])
def test_fused_model_equals_the_student(student, channels, size, sampler):
    spec = spec_from_student(student, *size, "brixel", channels, name="vit_mini_dinov3")
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = np.ascontiguousarray(rgb if channels == "RGB" else rgb[..., ::-1])[None]
    with torch.no_grad():
        fused = FusedModel(student, spec, sampler).eval()(torch.from_numpy(image)).numpy()
    expected = by_hand(student, rgb)
    assert fused.shape == (1, 128, size[0] // 4, size[1] // 4)
    assert np.abs(fused - expected).max() < 1e-4
    assert np.abs(reference_features(student, spec, [image])[0] - expected).max() < 1e-4


def test_batch_norm_is_folded_away(student):
    spec = spec_from_student(student, 64, 64, "brixel", name="vit_mini_dinov3")
    fused = FusedModel(student, spec)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in student.modules())


def test_patch_14_gives_four_cells_a_token(monkeypatch):
    import dataclasses

    small = dataclasses.replace(
        BACKBONES["vit_small_patch14_dinov2"],
        width=64,
        depth=4,
        tap_layers=(0, 1, 2, 3),
        overrides=(("embed_dim", 64), ("depth", 4), ("num_heads", 1)),
    )
    monkeypatch.setitem(BACKBONES, "small14", small)
    student = load_student(load_backbone("small14"), "random")
    spec = spec_from_student(student, 56, 112, "brixel", name="small14")
    assert (spec.grid, spec.stride_px) == ((16, 32), (3.5, 3.5))
    rgb = np.random.default_rng(0).integers(0, 256, (56, 112, 3), dtype=np.uint8)
    with torch.no_grad():
        fused = FusedModel(student, spec)(torch.from_numpy(rgb[None, :, :, ::-1].copy())).numpy()
    assert np.abs(fused - by_hand(student, rgb)).max() < 1e-4
