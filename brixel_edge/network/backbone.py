"""The frozen ViT: an image in, the maps of its tapped layers out.

The network itself is timm's. This module picks it by spec, loads weights strictly (`weights` knows the file formats),
freezes it, and can pin it to one image size so that an exporter sees constants only.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.adapters import check_multiple
from brixel_edge.model.backbones import BackboneSpec, backbone_spec
from brixel_edge.network.official_weights import backbone_file
from brixel_edge.network.rotation import pin_rotations
from brixel_edge.network.texture_stem import TextureStem
from brixel_edge.network.weights import (
    architecture_from_meta,
    meta_from_transformers,
    read_state,
    strict_load,
    timm_from_meta,
    weight_format,
)

RANDOM = "random"


class Backbone(nn.Module):
    """A frozen ViT that gives the maps of its tapped layers.

    Args:
        vit: timm's model.
        spec: its row; `tap_layers` says what to read.
        trained: False for random weights.
    """

    def __init__(self, vit: nn.Module, spec: BackboneSpec, trained: bool) -> None:
        super().__init__()
        if spec.tap_layers[-1] >= spec.depth:
            raise SpecError(
                f"tapped layers {spec.tap_layers} exceed the {spec.depth} blocks; the last is {spec.depth - 1}"
            )
        self.vit: Any = vit.eval().requires_grad_(False)  # timm declares no types for what its models share
        self.spec = spec
        self.trained = trained

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: it is frozen."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Tapped maps after the ViT's final norm, registers and class token removed.

        Args:
            image: (B, 3, H, W), normalised; H and W multiples of the patch.

        Returns:
            one (B, D, h, w) map a tapped layer; the last is the backbone's own map.
        """
        self.check_size(*image.shape[-2:])
        return self.vit.forward_intermediates(
            image, indices=list(self.spec.tap_layers), norm=True, intermediates_only=True, stop_early=True
        )

    def check_size(self, height: int, width: int) -> None:
        """Raise SpecError for a size [px] that is not a multiple of the patch."""
        check_multiple(height, width, self.spec.patch_px)

    def pinned(self, height: int, width: int) -> Backbone:
        """A copy for one image size [px], for export: position tables are constants, attention is written out.

        Dynamic sizes would leave an antialiased bicubic Resize in the graph (absolute position embeddings), which
        TensorRT refuses, and timm's RoPE grid bakes the traced size in silently. Attention is (q * scale) k^T, softmax,
        v, which is the pattern that TensorRT fuses without the SDPA defect of 10.7.
        """
        self.check_size(height, width)
        vit = copy.deepcopy(self.vit)
        vit.set_input_size(img_size=(height, width))
        vit.dynamic_img_size = False
        vit.patch_embed.flatten = True
        pin_rotations(vit, (height // self.spec.patch_px, width // self.spec.patch_px))
        for module in vit.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        return Backbone(vit, self.spec, self.trained)


def create_vit(spec: BackboneSpec) -> Any:
    """Timm's model of a spec, without head or pooling, for any image size."""
    overrides: dict[str, Any] = dict(spec.overrides)
    vit: Any = timm.create_model(
        spec.timm_name,
        pretrained=False,
        num_classes=0,
        global_pool="",
        dynamic_img_size=True,
        **overrides,
    )
    if spec.has_texture_stem:
        vit.patch_embed.proj = TextureStem(spec.width, spec.mean, spec.std)
    return vit


def load_backbone(
    name: str, weights: str | Path = RANDOM, *, tap_layers: tuple[int, ...] | None = None, seed: int = 0
) -> Backbone:
    """A frozen backbone by name.

    Args:
        name: a name of the table, or `dinov3`, which takes the architecture from the weights' shapes.
        weights: a file (.pth, .safetensors), `pretrained` for timm's hub (kept in the cache of `official_weights`), or
            `random` for seeded random weights.
        tap_layers: overrides the table; blocks from 0, rising.
        seed: of the random weights.

    Raises:
        SpecError: unknown name or layers that are not there.
        BundleError: a file that is no such backbone.
        BackendMissing: published weights that could not be fetched.
    """
    if weights == RANDOM:
        return _random_backbone(_with_taps(backbone_spec(name), tap_layers), seed)
    path = Path(backbone_file(name, weights))
    state = read_state(path)
    layout = weight_format(state)
    if layout == "transformers":
        state = meta_from_transformers(state, path)
    if layout in ("meta", "transformers"):
        inferred = architecture_from_meta(state, path)
        if name != "dinov3":
            _check_same(backbone_spec(name), inferred, path)
        spec = _with_taps(inferred if name == "dinov3" else backbone_spec(name), tap_layers)
        # Heads, FFN and biases are the file's, whatever the table's name of it.
        vit = create_vit(dataclasses.replace(spec, timm_name=inferred.timm_name, overrides=inferred.overrides))
        strict_load(vit, timm_from_meta(state, dict(inferred.overrides).get("qkv_bias") is True), path)
        if "rope_embed.periods" in state:
            vit.rope.periods.copy_(state["rope_embed.periods"].float())
        return Backbone(vit, spec, trained=True)
    if name == "dinov3":
        raise BundleError(f"{path} has neither Meta's nor transformers' DINOv3 key names; name its --backbone instead")
    spec = _with_taps(backbone_spec(name), tap_layers)
    vit = create_vit(spec)
    strict_load(vit, state, path, resample_positions=True)
    return Backbone(vit, spec, trained=True)


def _with_taps(spec: BackboneSpec, tap_layers: tuple[int, ...] | None) -> BackboneSpec:
    return spec if tap_layers is None else dataclasses.replace(spec, tap_layers=tap_layers)


def _check_same(named: BackboneSpec, inferred: BackboneSpec, path: Path) -> None:
    given = (named.width, named.depth, named.patch_px)
    found = (inferred.width, inferred.depth, inferred.patch_px)
    if given != found:
        raise BundleError(
            f"{path} holds a ViT of width {found[0]}, {found[1]} blocks, patch {found[2]}, but {named.timm_name} has "
            f"width {given[0]}, {given[1]} blocks, patch {given[2]}; use --backbone dinov3 to take the file's"
        )


def _random_backbone(spec: BackboneSpec, seed: int) -> Backbone:
    """Seeded random weights, independent of torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = create_vit(spec)
        for name, parameter in vit.named_parameters():
            if name.endswith(("gamma_1", "gamma_2", "ls1.gamma", "ls2.gamma")):
                # DINOv3 starts at 1e-5, which would leave every block without effect.
                nn.init.constant_(parameter, 0.5)
    return Backbone(vit, spec, trained=False)
