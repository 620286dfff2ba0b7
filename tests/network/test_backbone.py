"""Backbones: the authors' outputs, three sets of key names, sizes, and what is refused."""

import numpy as np
import pytest
import torch

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.backbones import BACKBONES, default_tap_layers
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.weights import read_state, timm_from_meta, weight_format

TINY = dict(patch_size=16, embed_dim=64, depth=2, num_heads=1, mlp_ratio=2.0, num_reg_tokens=2)


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden" / "official_vit_tiny"
    return folder, np.load(folder / "io.npz")


def normalised(image_rgb: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(image_rgb).permute(2, 0, 1)[None].float() / 255 - mean) / std


def meta_state(swiglu: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """A small DINOv3 under Meta's key names, written here by hand."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.05

    width, hidden = 64, 128
    state = {
        "cls_token": random(1, 1, width),
        "storage_tokens": random(1, 2, width),
        "mask_token": random(1, width),
        "rope_embed.periods": torch.tensor([100.0 ** (2 * i / 32) for i in range(16)]),
        "patch_embed.proj.weight": random(width, 3, 16, 16),
        "patch_embed.proj.bias": random(width),
        "norm.weight": random(width) + 1,
        "norm.bias": random(width),
    }
    for i in range(4):
        block = {
            "norm1.weight": random(width) + 1,
            "norm1.bias": random(width),
            "norm2.weight": random(width) + 1,
            "norm2.bias": random(width),
            "attn.qkv.weight": random(3 * width, width),
            "attn.qkv.bias": random(3 * width),
            "attn.qkv.bias_mask": torch.cat((torch.ones(width), torch.zeros(width), torch.ones(width))),
            "attn.proj.weight": random(width, width),
            "attn.proj.bias": random(width),
            "ls1.gamma": random(width) + 0.5,
            "ls2.gamma": random(width) + 0.5,
        }
        if swiglu:
            block |= {
                "mlp.w1.weight": random(hidden, width),
                "mlp.w1.bias": random(hidden),
                "mlp.w2.weight": random(hidden, width),
                "mlp.w2.bias": random(hidden),
                "mlp.w3.weight": random(width, hidden),
                "mlp.w3.bias": random(width),
            }
        else:
            block |= {
                "mlp.fc1.weight": random(hidden, width),
                "mlp.fc1.bias": random(hidden),
                "mlp.fc2.weight": random(width, hidden),
                "mlp.fc2.bias": random(width),
            }
        state |= {f"blocks.{i}.{name}": value for name, value in block.items()}
    return state


def transformers_state(meta: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under Hugging Face's names, written here by hand."""
    state = {
        "embeddings.cls_token": meta["cls_token"],
        "embeddings.register_tokens": meta["storage_tokens"],
        "embeddings.mask_token": meta["mask_token"][None],
        "embeddings.patch_embeddings.weight": meta["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.bias": meta["patch_embed.proj.bias"],
        "norm.weight": meta["norm.weight"],
        "norm.bias": meta["norm.bias"],
    }
    swiglu = "blocks.0.mlp.w1.weight" in meta
    mlp = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"} if swiglu else {"fc1": "up_proj", "fc2": "down_proj"}
    for i in range(4):
        ours, theirs = f"blocks.{i}.", f"layer.{i}."
        for name, part, bias in (("q", 0, True), ("k", 1, False), ("v", 2, True)):
            state[f"{theirs}attention.{name}_proj.weight"] = meta[f"{ours}attn.qkv.weight"].chunk(3)[part]
            if bias:
                state[f"{theirs}attention.{name}_proj.bias"] = meta[f"{ours}attn.qkv.bias"].chunk(3)[part]
        for leaf in ("weight", "bias"):
            state[f"{theirs}attention.o_proj.{leaf}"] = meta[f"{ours}attn.proj.{leaf}"]
            state[f"{theirs}norm1.{leaf}"] = meta[f"{ours}norm1.{leaf}"]
            state[f"{theirs}norm2.{leaf}"] = meta[f"{ours}norm2.{leaf}"]
            for from_name, to_name in mlp.items():
                state[f"{theirs}mlp.{to_name}.{leaf}"] = meta[f"{ours}mlp.{from_name}.{leaf}"]
        state[f"{theirs}layer_scale1.lambda1"] = meta[f"{ours}ls1.gamma"]
        state[f"{theirs}layer_scale2.lambda1"] = meta[f"{ours}ls2.gamma"]
    return state


def test_tapped_layers_equal_the_authors(golden):
    folder, io = golden
    backbone = load_backbone("dinov3", folder / "backbone.safetensors")
    assert (backbone.spec.width, backbone.spec.depth, backbone.spec.tap_layers) == (192, 12, (3, 6, 9, 11))
    with torch.no_grad():
        maps = backbone(normalised(io["image_rgb"]))
    for tapped, layer in zip(maps, (3, 6, 9, 11), strict=True):
        assert np.abs(tapped.numpy() - io[f"layer_{layer}"]).max() < 1e-4


@pytest.mark.parametrize("swiglu", [False, True])
def test_transformers_names_give_the_same_maps_as_metas(tmp_path, swiglu):
    meta = meta_state(swiglu)
    torch.save(meta, tmp_path / "meta.pth")
    torch.save(transformers_state(meta), tmp_path / "hf.pth")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        by_meta = load_backbone("dinov3", tmp_path / "meta.pth")(image)
        by_hf = load_backbone("dinov3", tmp_path / "hf.pth")(image)
    assert by_meta[-1].shape == (1, 64, 4, 6)
    for a, b in zip(by_meta, by_hf, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_timm_names_give_the_same_maps_as_metas(tmp_path, monkeypatch):
    meta = meta_state()
    torch.save(meta, tmp_path / "meta.pth")
    torch.save(timm_from_meta(meta, qkv_bias=True), tmp_path / "timm.pth")
    backbone = load_backbone("dinov3", tmp_path / "meta.pth")
    monkeypatch.setitem(BACKBONES, "mine", backbone.spec)
    assert weight_format(read_state(tmp_path / "timm.pth")) == "timm"
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(load_backbone("mine", tmp_path / "timm.pth")(image)[-1], backbone(image)[-1], atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_pinned_copy_equals_the_backbone_at_its_size(size):
    backbone = load_backbone("vit_mini_dinov3")
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        for a, b in zip(backbone(image), backbone.pinned(*size)(image), strict=True):
            assert torch.allclose(a, b, atol=1e-4)


def test_pinned_copy_with_absolute_positions_equals_the_backbone(monkeypatch):
    import dataclasses

    spec = dataclasses.replace(
        BACKBONES["vit_small_patch14_dinov2"],
        width=64,
        depth=4,
        tap_layers=(0, 1, 2, 3),
        overrides=(("embed_dim", 64), ("depth", 4), ("num_heads", 1)),
    )
    monkeypatch.setitem(BACKBONES, "small14", spec)
    backbone = load_backbone("small14")
    image = torch.randn(1, 3, 56, 112)
    with torch.no_grad():
        maps = backbone(image)
        assert maps[0].shape == (1, 64, 4, 8)
        for a, b in zip(maps, backbone.pinned(56, 112)(image), strict=True):
            assert torch.allclose(a, b, atol=1e-4)


def test_random_weights_are_seeded_and_leave_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = load_backbone("vit_mini_dinov3", seed=3)
    assert torch.equal(torch.rand(1), expected)
    second = load_backbone("vit_mini_dinov3", seed=3)
    other = load_backbone("vit_mini_dinov3", seed=4)
    assert torch.equal(first.vit.blocks[0].attn.qkv.weight, second.vit.blocks[0].attn.qkv.weight)
    assert not torch.equal(first.vit.blocks[0].attn.qkv.weight, other.vit.blocks[0].attn.qkv.weight)
    assert not first.trained


def test_backbone_stays_frozen_and_in_evaluation_mode():
    backbone = load_backbone("vit_mini_dinov3").train()
    assert not backbone.vit.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_size_that_does_not_fit_the_patch_names_the_neighbours():
    with pytest.raises(SpecError, match="height 250 is not a multiple of 16; use 240 or 256"):
        load_backbone("vit_mini_dinov3")(torch.zeros(1, 3, 250, 256))


def test_missing_and_unexpected_keys_are_named(tmp_path):
    state = meta_state()
    del state["blocks.1.norm1.bias"]
    state["blocks.1.surprise"] = torch.zeros(1)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(BundleError, match=r"missing \['blocks.1.norm1.bias'\].*unexpected \['blocks.1.surprise'\]"):
        load_backbone("dinov3", tmp_path / "bad.pth")


def test_a_bias_for_keys_is_refused(tmp_path):
    state = {key: value for key, value in meta_state().items() if not key.endswith("bias_mask")}
    torch.save(state, tmp_path / "k.pth")
    with pytest.raises(BundleError, match="bias for keys"):
        load_backbone("dinov3", tmp_path / "k.pth")


def test_values_that_are_not_finite_are_refused(tmp_path):
    state = meta_state()
    state["norm.bias"][3] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(BundleError, match=r"norm\.bias has values that are not finite"):
        load_backbone("dinov3", tmp_path / "nan.pth")


def test_weights_of_another_width_are_refused_by_name(tmp_path):
    torch.save(meta_state(), tmp_path / "tiny.pth")
    with pytest.raises(BundleError, match="width 64, 4 blocks, patch 16"):
        load_backbone("vit_small_patch16_dinov3", tmp_path / "tiny.pth")


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x02}q\x00."])
def test_a_file_that_holds_no_weights_is_one_clear_error(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(BundleError):
        load_backbone("dinov3", tmp_path / "w.pth")


def test_unknown_backbone_lists_the_known_ones():
    with pytest.raises(SpecError, match="vit_small_patch16_dinov3"):
        load_backbone("resnet50")


def test_tap_layers_beyond_the_depth_are_refused():
    with pytest.raises(SpecError, match="the last is 5"):
        load_backbone("vit_mini_dinov3", tap_layers=(1, 2, 3, 6))


def test_default_taps_are_the_authors():
    assert default_tap_layers(12) == (3, 6, 9, 11)
    assert default_tap_layers(24) == (6, 12, 18, 23)
    assert default_tap_layers(32) == (8, 16, 24, 31)
    assert default_tap_layers(4) == (0, 1, 2, 3)


@pytest.mark.parametrize("name", [name for name in BACKBONES if "7b" not in name])
def test_table_agrees_with_timm(name):
    from brixel_edge.network.backbone import create_vit

    spec = BACKBONES[name]
    with torch.device("meta"):
        vit = create_vit(spec)
    assert (vit.embed_dim, len(vit.blocks)) == (spec.width, spec.depth)
    assert vit.patch_embed.patch_size == (spec.patch_px, spec.patch_px)
    if not spec.overrides:
        assert vit.pretrained_cfg["mean"] == pytest.approx(spec.mean, abs=1e-6)
        assert vit.pretrained_cfg["std"] == pytest.approx(spec.std, abs=1e-6)
