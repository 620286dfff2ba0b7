"""The conv adapter: sizes, patches, cost, its two inputs, files, gradients, and the graph that it becomes."""

import contextlib
import dataclasses
import io

import cv2
import numpy as np
import onnxruntime
import onnxsim
import pytest
import torch
from torch import nn

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.export.graph.census import census_of
from brixel_edge.export.graph.fuse import FusedModel, folded, spec_from_student
from brixel_edge.export.graph.to_onnx import onnx_from_model
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.model.backbones import BACKBONES
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.conv_adapter import ConvRefiner
from brixel_edge.network.flops import count_gflop
from brixel_edge.network.student import adapter_metadata, build_refiner, load_student
from brixel_edge.network.weights import save_adapter

FULL = ConvSettings(width=32, full_frame=True)
SMALL = ConvSettings(width=32)
# (width, height) [px], as OpenCV counts.
SIZE_VIEW, SIZE_FRAME = (48, 32), (192, 128)


def small_backbone(monkeypatch, patch_px):
    """Two heads of 32 channels, four blocks; RoPE for patch 16, learnt positions for patch 14."""
    name = {16: "vit_mini_dinov3", 14: "vit_small_patch14_dinov2"}[patch_px]
    overrides = {**dict(BACKBONES[name].overrides), "embed_dim": 64, "depth": 4, "num_heads": 2}
    spec = dataclasses.replace(
        BACKBONES[name], width=64, depth=4, tap_layers=(0, 1, 2, 3), overrides=tuple(overrides.items())
    )
    monkeypatch.setitem(BACKBONES, f"small{patch_px}", spec)
    return load_backbone(f"small{patch_px}")


def seeded(student):
    """Weights and statistics that no shortcut survives: nothing zero, nothing one."""
    generator = torch.Generator().manual_seed(0)
    for module in student.refiner.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.2 / (module.weight[0].numel() ** 0.5) + 0.05, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return student


def small_spec(student):
    size = SIZE_FRAME if student.view_scale == 4 else SIZE_VIEW
    return spec_from_student(student, size[1], size[0], "conv", name="small16")


def by_hand(student, bgr):
    """Features of a picture, its pre-processing written out."""
    spec = student.backbone.spec
    pixels = (bgr[..., ::-1].astype(np.float64) / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        return student(torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None].contiguous()).numpy()


@pytest.mark.parametrize(
    ("patch_px", "size", "grid"),
    [(16, (64, 96), (16, 24)), (16, (48, 16), (12, 4)), (14, (56, 42), (16, 12)), (14, (70, 98), (20, 28))],
)
@pytest.mark.parametrize("settings", [SMALL, FULL], ids=["view", "frame"])
def test_output_is_four_times_the_token_grid(monkeypatch, patch_px, size, grid, settings):
    student = load_student(small_backbone(monkeypatch, patch_px), "random", "conv", conv=settings)
    scale = 4 if settings.full_frame else 1
    with torch.no_grad():
        features = student(torch.randn(2, 3, *(scale * side for side in size)))
    assert features.shape == (2, 64, *grid)
    assert student.grid(*(scale * side for side in size)) == grid


def test_sizes_that_do_not_fit_are_refused(monkeypatch):
    backbone = small_backbone(monkeypatch, 16)
    with pytest.raises(SpecError, match="width 40 is not a multiple of 16; use 32 or 48"):
        load_student(backbone, "random", "conv").grid(48, 40)
    with pytest.raises(SpecError, match="height 96 is not a multiple of 64; use 64 or 128"):
        load_student(backbone, "random", "conv", conv=FULL).grid(96, 128)
    with pytest.raises(SpecError, match="adapter width 50 is not a positive multiple of 16"):
        ConvSettings(width=50)


@pytest.mark.parametrize("full_frame", [False, True], ids=["view", "frame"])
def test_cost_for_a_vit_s_is_within_the_target(full_frame):
    with torch.device("meta"):
        refiner = build_refiner(384, 4, "conv", conv=ConvSettings(full_frame=full_frame))
    side = 1024 if full_frame else 256
    gflop = count_gflop(refiner, torch.empty(1, 3, side, side), [torch.empty(1, 384, 16, 16)] * 4)
    assert 1.0 < gflop <= 2.5


def test_backbone_sees_the_mean_of_4_by_4_pixels(monkeypatch, photographs):
    """The full frame and OpenCV's area average of it give the backbone the same picture."""
    backbone = small_backbone(monkeypatch, 16)
    student = load_student(backbone, "random", "conv", conv=FULL)
    seen = []
    handle = backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    frame = cv2.resize(photographs[0], (256, 192)).astype(np.float32) / 255
    with torch.no_grad():
        student(torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous())
    handle.remove()
    expected = cv2.resize(frame, (64, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(seen[0][0].permute(1, 2, 0).numpy() - expected).max() < 1e-6


def test_the_full_frame_sees_what_the_view_cannot(monkeypatch):
    """Detail whose 4 x 4 means vanish changes the features of the full-frame student."""
    student = seeded(load_student(small_backbone(monkeypatch, 16), "random", "conv", conv=FULL))
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(64, 64).expand(1, 3, 128, 128)
    with torch.no_grad():
        assert (student(checker) - student(torch.zeros_like(checker))).abs().max() > 0.01


@pytest.mark.parametrize("settings", [SMALL, FULL], ids=["view", "frame"])
def test_refiner_is_made_of_plain_operators(monkeypatch, settings):
    student = load_student(small_backbone(monkeypatch, 16), "random", "conv", conv=settings)
    side = 128 if settings.full_frame else 32
    inputs = (torch.zeros(1, 3, side, side), [torch.zeros(1, 64, 2, 2)] * 4)
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            folded(student.refiner, "gridsample", 2, 2), inputs, dynamo=True, opset_version=18, verbose=False
        )
    graph, is_equal = onnxsim.simplify(program.model_proto)
    assert is_equal
    view = {"AveragePool"} if settings.full_frame else set()
    assert set(census_of(graph).ops) == {"Conv", "Add", "Resize", "Relu"} | view


@pytest.mark.parametrize("settings", [SMALL, FULL], ids=["view", "frame"])
def test_fused_model_equals_the_student(monkeypatch, settings, photographs):
    student = seeded(load_student(small_backbone(monkeypatch, 16), "random", "conv", conv=settings))
    spec, image = small_spec(student), cv2.resize(photographs[0], SIZE_FRAME if settings.full_frame else SIZE_VIEW)
    assert spec.grid == (8, 12)
    fused = FusedModel(student, spec).eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        features = fused(torch.from_numpy(image[None])).numpy()
    expected = by_hand(student, image)
    assert np.abs(features - expected).max() < 1e-4 * np.abs(expected).max()


def test_graph_of_the_full_frame_equals_the_student(monkeypatch, tmp_path, photographs):
    student = seeded(load_student(small_backbone(monkeypatch, 16), "random", "conv", conv=FULL))
    spec, image = small_spec(student), cv2.resize(photographs[1], SIZE_FRAME)
    census = onnx_from_model(FusedModel(student, spec).eval(), spec, tmp_path / "graph.onnx")
    assert census.ops["AveragePool"] == 1
    assert not {"GridSample", "GroupNormalization", "InstanceNormalization"} & census.ops.keys()
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"))
    assert session.get_inputs()[0].shape == [1, 128, 192, 3] and session.get_inputs()[0].type == "tensor(uint8)"
    features, expected = session.run(None, {"image": image[None]})[0], by_hand(student, image)
    assert np.abs(features - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("settings", [ConvSettings(width=48), FULL], ids=["view", "frame"])
def test_file_round_trip_restores_settings_and_features(monkeypatch, tmp_path, settings):
    backbone = small_backbone(monkeypatch, 16)
    student = seeded(load_student(backbone, "random", "conv", conv=settings))
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, student.refiner.state_dict(), adapter_metadata(student))
    loaded = load_student(backbone, path, "conv")
    assert isinstance(loaded.refiner, ConvRefiner) and loaded.refiner.settings == settings
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.equal(loaded(image), student(image))


def test_a_file_is_not_loaded_as_another_kind(monkeypatch, tmp_path):
    backbone = load_backbone("vit_mini_dinov3")
    conv, paper = load_student(backbone, "random", "conv"), load_student(backbone, "random")
    for name, student in (("conv", conv), ("paper", paper)):
        save_adapter(tmp_path / f"{name}.safetensors", student.refiner.state_dict(), adapter_metadata(student))
    with pytest.raises(BundleError, match="was trained with adapter conv, here it is brixel"):
        load_student(backbone, tmp_path / "conv.safetensors")
    with pytest.raises(BundleError, match="was trained with adapter brixel, here it is conv"):
        load_student(backbone, tmp_path / "paper.safetensors", "conv")
    silent = {key: value for key, value in adapter_metadata(conv).items() if key != "full_frame"}
    save_adapter(tmp_path / "silent.safetensors", conv.refiner.state_dict(), silent)
    with pytest.raises(BundleError, match="full_frame"):
        load_student(backbone, tmp_path / "silent.safetensors", "conv")
    other = {**adapter_metadata(conv), "width": 64}
    save_adapter(tmp_path / "other.safetensors", conv.refiner.state_dict(), other)
    with pytest.raises(BundleError, match=r"is .* the model needs"):
        load_student(backbone, tmp_path / "other.safetensors", "conv")


def test_an_untrained_refiner_starts_near_the_bilinear_map(monkeypatch):
    """Trained from there, it can hardly become worse than the baseline; yet it is not the baseline itself."""
    backbone = small_backbone(monkeypatch, 16)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        base = backbone(image)[-1]
        bilinear = nn.functional.interpolate(base, scale_factor=4, mode="bilinear", align_corners=False)
        distance = (load_student(backbone, "random", "conv")(image) - bilinear).norm() / bilinear.norm()
    assert 0.01 < distance < 0.5


def test_features_are_learnt_in_units_of_the_final_norm(monkeypatch, tmp_path):
    """A backbone whose features are 5 times as large gets corrections 5 times as large; a file brings its own unit."""
    backbone = small_backbone(monkeypatch, 16)
    image, maps = torch.randn(1, 3, 32, 32), [torch.randn(1, 64, 2, 2)] * 4
    base = nn.functional.interpolate(maps[-1], scale_factor=4, mode="bilinear", align_corners=False)
    small = load_student(backbone, "random", "conv", conv=SMALL)
    backbone.vit.norm.weight.fill_(-5)
    large = load_student(backbone, "random", "conv", conv=SMALL)
    with torch.no_grad():
        residuals = [(student.refiner(image, maps) - base) for student in (small, large)]
    assert torch.allclose(residuals[1], 5 * residuals[0], atol=1e-5)
    save_adapter(tmp_path / "a.safetensors", small.refiner.state_dict(), adapter_metadata(small))
    with torch.no_grad():
        loaded = load_student(backbone, tmp_path / "a.safetensors", "conv").refiner(image, maps) - base
    assert torch.allclose(loaded, residuals[0], atol=1e-6)


@pytest.mark.parametrize("settings", [SMALL, FULL], ids=["view", "frame"])
def test_gradients_reach_every_weight_of_the_refiner_only(monkeypatch, settings):
    student = load_student(small_backbone(monkeypatch, 16), "random", "conv", conv=settings).train()
    student(torch.randn(2, 3, 128, 128)).square().mean().backward()
    assert all(parameter.grad is None for parameter in student.backbone.parameters())
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.refiner.parameters()
    )
