"""The backbones by name: one table, and nothing else knows their sizes.

Tapped layers of DINOv3 S, B, L and H+ are the authors' (zero-based): blocks at 1/4, 1/2 and 3/4 of the depth, and the
last. The others have none published and follow the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass

from brixel_edge.errors import SpecError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

DEFAULT_BACKBONE = "vit_nano_dinov3"
# What stands for packaged weights where a file could be named: the full frame's, and those of the view alone.
BUILT_IN, BUILT_IN_VIEW = "built-in", "built-in-view"


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One frozen ViT.

    Attributes:
        timm_name: what `timm.create_model` calls it.
        patch_px: side of a token [px].
        width: D, channels of a token.
        depth: number of blocks.
        tap_layers: blocks that the adapter reads, from 0.
        mean: of (R, G, B) in [0, 1] units.
        std: of (R, G, B) in [0, 1] units.
        licence: of the published weights.
        has_texture_stem: the patch embedding is ours (`network/texture_stem.py`).
        overrides: further arguments of the timm model, for shapes that timm has no name for.
    """

    timm_name: str
    patch_px: int
    width: int
    depth: int
    tap_layers: tuple[int, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    licence: str
    has_texture_stem: bool = False
    overrides: tuple[tuple[str, object], ...] = ()


def _dinov3(timm_name: str, width: int, depth: int, tap_layers: tuple[int, ...]) -> BackboneSpec:
    return BackboneSpec(
        timm_name=timm_name, patch_px=16, width=width, depth=depth, tap_layers=tap_layers, licence="dinov3-license"
    )


BACKBONES: dict[str, BackboneSpec] = {
    # The built-in default, which `make nano` trains: wide and of few blocks, with a patch embedding that averages small
    # filters.
    DEFAULT_BACKBONE: BackboneSpec(
        timm_name="vit_small_patch16_dinov3",
        patch_px=16,
        width=384,
        depth=3,
        tap_layers=(0, 1, 2),
        licence="Apache-2.0",
        has_texture_stem=True,
        overrides=(("depth", 3), ("init_values", 0.5)),
    ),
    # DINOv3's shape with the paper's four taps, small, with seeded random weights: for trials.
    "vit_mini_dinov3": BackboneSpec(
        timm_name="vit_small_patch16_dinov3",
        patch_px=16,
        width=128,
        depth=6,
        tap_layers=(1, 3, 4, 5),
        licence="Apache-2.0",
        overrides=(("embed_dim", 128), ("depth", 6), ("num_heads", 2)),
    ),
    "vit_small_patch16_dinov3": _dinov3("vit_small_patch16_dinov3", 384, 12, (3, 6, 9, 11)),
    "vit_small_plus_patch16_dinov3": _dinov3("vit_small_plus_patch16_dinov3", 384, 12, (3, 6, 9, 11)),
    "vit_base_patch16_dinov3": _dinov3("vit_base_patch16_dinov3", 768, 12, (3, 6, 9, 11)),
    "vit_large_patch16_dinov3": _dinov3("vit_large_patch16_dinov3", 1024, 24, (6, 12, 18, 23)),
    "vit_huge_plus_patch16_dinov3": _dinov3("vit_huge_plus_patch16_dinov3", 1280, 32, (8, 16, 24, 31)),
    "vit_7b_patch16_dinov3": _dinov3("vit_7b_patch16_dinov3", 4096, 40, (10, 20, 30, 39)),
    "vit_base_patch16_siglip2": BackboneSpec(
        timm_name="vit_base_patch16_siglip_256.v2_webli",
        patch_px=16,
        width=768,
        depth=12,
        tap_layers=(3, 6, 9, 11),
        mean=HALF,
        std=HALF,
        licence="apache-2.0",
    ),
    "vit_base_patch16_pe": BackboneSpec(
        timm_name="vit_pe_spatial_base_patch16_512",
        patch_px=16,
        width=768,
        depth=12,
        tap_layers=(3, 6, 9, 11),
        mean=HALF,
        std=HALF,
        licence="apache-2.0",
    ),
    "vit_small_patch14_dinov2": BackboneSpec(
        timm_name="vit_small_patch14_reg4_dinov2",
        patch_px=14,
        width=384,
        depth=12,
        tap_layers=(3, 6, 9, 11),
        licence="apache-2.0",
    ),
    "vit_base_patch14_dinov2": BackboneSpec(
        timm_name="vit_base_patch14_reg4_dinov2",
        patch_px=14,
        width=768,
        depth=12,
        tap_layers=(3, 6, 9, 11),
        licence="apache-2.0",
    ),
    # A plain supervised ViT without registers: for tests and measurements with really trained weights.
    "vit_tiny_patch16_224": BackboneSpec(
        timm_name="vit_tiny_patch16_224",
        patch_px=16,
        width=192,
        depth=12,
        tap_layers=(3, 6, 9, 11),
        mean=HALF,
        std=HALF,
        licence="unstated",
    ),
}


def default_tap_layers(depth: int) -> tuple[int, ...]:
    """The blocks at 1/4, 1/2, 3/4 of the depth and the last; for 12, 24 and 32 blocks these are the authors'."""
    if depth <= 4:
        return tuple(range(depth))
    return (depth // 4, depth // 2, depth * 3 // 4, depth - 1)


def backbone_spec(name: str) -> BackboneSpec:
    """The spec of a backbone by its name in the table.

    Raises:
        SpecError: no such name; the message lists those there are.
    """
    if name not in BACKBONES:
        raise SpecError(f"backbone {name!r} is not known; choose one of {', '.join(BACKBONES)}, or dinov3 with weights")
    return BACKBONES[name]
