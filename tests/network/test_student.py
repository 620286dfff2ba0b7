"""The student: the authors' features, parameter counts, sizes, and adapter files."""

import numpy as np
import pytest
import torch

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.student import Student, build_refiner, load_student
from brixel_edge.network.weights import save_adapter

# Live parameters, counted in the public implementation.
LIVE_PARAMETERS = {384: 2_108_288, 768: 6_683_072, 1024: 11_207_488, 1280: 16_911_552}


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden" / "official_vit_tiny"
    return folder, np.load(folder / "io.npz")


@pytest.fixture(scope="module")
def mini():
    return load_backbone("vit_mini_dinov3")


def test_features_equal_the_authors(golden):
    folder, io = golden
    student = load_student(load_backbone("dinov3", folder / "backbone.safetensors"), folder / "adapter.pth")
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    image = (torch.from_numpy(io["image_rgb"]).permute(2, 0, 1)[None].float() / 255 - mean) / std
    with torch.no_grad():
        features = student(image).numpy()
    assert np.abs(features - io["features"]).max() < 1e-4
    assert student.trained


@pytest.mark.parametrize("dim", LIVE_PARAMETERS)
def test_live_parameter_counts_equal_the_published(dim):
    with torch.device("meta"):
        refiner = build_refiner(dim, taps=4)
    assert sum(parameter.numel() for parameter in refiner.parameters()) == LIVE_PARAMETERS[dim]


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (128, 32)])
def test_output_is_four_times_the_token_grid(mini, size):
    student = load_student(mini, "random")
    with torch.no_grad():
        features = student(torch.randn(1, 3, *size))
    assert features.shape == (1, 128, size[0] // 4, size[1] // 4)
    assert features.shape[-2:] == student.grid(*size)


def test_sizes_that_halve_the_grid_unevenly_are_refused(mini):
    with pytest.raises(SpecError, match="width 80 is not a multiple of 32; use 64 or 96"):
        load_student(mini, "random").grid(64, 80)
    assert Student(mini, None).grid(64, 80) == (4, 5)


def test_without_refiner_the_features_are_the_last_map(mini):
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_student(mini, "random", "none")(image), mini(image)[-1])


def test_gradients_reach_the_refiner_only(mini):
    student = load_student(mini, "random").train()
    student(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is None for parameter in student.backbone.parameters())
    assert all(parameter.grad is not None for parameter in student.refiner.parameters())


def test_adapter_file_round_trip(mini, tmp_path):
    student = load_student(mini, "random", seed=5)
    metadata = {"adapter": "brixel", "dim": 128, "tap_layers": [1, 3, 4, 5]}
    save_adapter(tmp_path / "adapter.safetensors", student.refiner.state_dict(), metadata)
    loaded = load_student(mini, tmp_path / "adapter.safetensors")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), student(image))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_dead_keys_are_dropped_by_name_and_others_refused(mini, tmp_path):
    state = load_student(mini, "random").refiner.state_dict()
    dead = {"adapter.up.expand.weight": torch.zeros(3), "adapter.norm2.bias": torch.zeros(3)}
    dead["adapter.guide_proj.0.weight"] = dead["adapter.spm.conv3.0.weight"] = torch.zeros(3)
    levels = {"adapter.level_embed": torch.cat((state["adapter.level_embed"], torch.ones(2, 128)))}
    torch.save({**state, **dead, **levels}, tmp_path / "official.pth")
    load_student(mini, tmp_path / "official.pth")
    torch.save({**state, "adapter.novel": torch.zeros(1)}, tmp_path / "novel.pth")
    with pytest.raises(BundleError, match=r"unexpected \['adapter.novel'\]"):
        load_student(mini, tmp_path / "novel.pth")
    del state["head.mix.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(BundleError, match=r"missing \['head.mix.weight'\]"):
        load_student(mini, tmp_path / "cut.pth")


def test_adapter_of_other_layers_is_refused(mini, tmp_path):
    student = load_student(mini, "random")
    save_adapter(
        tmp_path / "a.safetensors",
        student.refiner.state_dict(),
        {"adapter": "brixel", "dim": 128, "tap_layers": [0, 1, 2, 3]},
    )
    with pytest.raises(BundleError, match=r"was trained with tap_layers \[0, 1, 2, 3\]"):
        load_student(mini, tmp_path / "a.safetensors")


def test_a_backbone_file_is_no_adapter(mini, tmp_path):
    torch.save({"cls_token": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(BundleError, match="no adapter file"):
        load_student(mini, tmp_path / "b.pth")
