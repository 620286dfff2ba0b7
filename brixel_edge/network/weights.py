"""Weight files: which layout a state dict has, what architecture it is of, and loading that forgives nothing.

Backbones come under three sets of key names: Meta's DINOv3 (`.pth`), Hugging Face transformers' DINOv3, and timm's.
Adapters come as our `adapter.safetensors` or as the authors' `.pth`. A key is used, or dropped by a name listed here,
or it is an error that names it.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.machine.files import replacing
from brixel_edge.model.backbones import BackboneSpec, default_tap_layers

State = dict[str, Tensor]
WeightFormat = Literal["meta", "transformers", "timm"]

# Of a backbone file: pre-training only, or recomputed here.
_DEAD_BACKBONE = re.compile(
    r"^(mask_token|local_cls_norm\..*|head\..*|fc_norm\..*|attn_pool\..*|.*\.bias_mask|rope_embed\.periods)$"
)
# Of the authors' adapter files: built and saved, but without effect on the output (shown exact in our golden test).
_DEAD_ADAPTER = re.compile(r"^adapter\.(up\..*|guide_proj\..*|norm[234]\..*|spm\.(conv3|conv4|fc3|fc4)\..*)$")

_META_FROM_TRANSFORMERS = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.register_tokens$", "storage_tokens"),
    (r"^embeddings\.patch_embeddings\.(weight|bias)$", r"patch_embed.proj.\1"),
    (r"^layer\.(\d+)\.(norm[12])\.(weight|bias)$", r"blocks.\1.\2.\3"),
    (r"^layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^layer\.(\d+)\.attention\.o_proj\.(weight|bias)$", r"blocks.\1.attn.proj.\2"),
    (r"^layer\.(\d+)\.mlp\.gate_proj\.(weight|bias)$", r"blocks.\1.mlp.w1.\2"),
    (r"^norm\.(weight|bias)$", r"norm.\1"),
)
_META_FROM_TRANSFORMERS_MLP = (
    (r"^layer\.(\d+)\.mlp\.up_proj\.(weight|bias)$", r"blocks.\1.mlp.fc1.\2"),
    (r"^layer\.(\d+)\.mlp\.down_proj\.(weight|bias)$", r"blocks.\1.mlp.fc2.\2"),
)
_META_FROM_TRANSFORMERS_SWIGLU = (
    (r"^layer\.(\d+)\.mlp\.up_proj\.(weight|bias)$", r"blocks.\1.mlp.w2.\2"),
    (r"^layer\.(\d+)\.mlp\.down_proj\.(weight|bias)$", r"blocks.\1.mlp.w3.\2"),
)
_TIMM_FROM_META = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)


def read_state(path: Path) -> State:
    """The tensors of a `.safetensors`, or of a `.pth`/`.pt` read with weights_only.

    Raises:
        BundleError: missing, damaged, or not a flat dict of tensors.
    """
    if not path.is_file():
        raise BundleError(f"no weights at {path}; give a .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no dict
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, BadZipFile, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise BundleError(f"{path} is not a readable weight file ({reason}); give a .pth or .safetensors") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BundleError(f"{path} holds no state dict of tensors; save model.state_dict()")
    return state


def weight_format(state: State) -> WeightFormat:
    """Whose key names a backbone's state dict has."""
    scaled = any(key.endswith(".ls1.gamma") for key in state)
    if "storage_tokens" in state or (scaled and not {"reg_token", "pos_embed"} & state.keys()):
        return "meta"
    if any(key.endswith("embeddings.patch_embeddings.weight") for key in state):
        return "transformers"
    return "timm"


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        if re.search(pattern, key):
            return re.sub(pattern, replacement, key)
    return None


def meta_from_transformers(state: State, path: Path) -> State:
    """A transformers DINOv3 state dict under Meta's names, query, key and value joined.

    Raises:
        BundleError: a key that is not DINOv3's.
    """
    prefix = next(key for key in state if key.endswith("embeddings.patch_embeddings.weight"))
    prefix = prefix[: -len("embeddings.patch_embeddings.weight")]
    inner = {re.sub(r"^model\.(?=layer\.|norm\.)", "", key[len(prefix) :]): value for key, value in state.items()}
    swiglu = any(".mlp.gate_proj." in key for key in inner)
    rules = _META_FROM_TRANSFORMERS + (_META_FROM_TRANSFORMERS_SWIGLU if swiglu else _META_FROM_TRANSFORMERS_MLP)
    result: State = {}
    projections: dict[str, State] = {}
    for key, value in inner.items():
        if match := re.match(r"^layer\.(\d+)\.attention\.([qkv])_proj\.(weight|bias)$", key):
            projections.setdefault(f"blocks.{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = value
        elif (name := _renamed(key, rules)) is not None:
            result[name] = value
        else:
            raise BundleError(
                f"{path}: unexpected key {prefix}{key} in a transformers DINOv3 file; it is another model"
            )
    for name, parts in projections.items():
        example = next(iter(parts.values()))
        result[name] = torch.cat([parts.get(part, torch.zeros_like(example)) for part in "qkv"])
    return result


def architecture_from_meta(state: State, path: Path) -> BackboneSpec:
    """Width, depth, heads, FFN and registers from the shapes of a Meta DINOv3 state dict.

    Raises:
        BundleError: shapes that no DINOv3 has.
    """
    try:
        width = state["cls_token"].shape[-1]
        patch = state["patch_embed.proj.weight"].shape[-1]
        depth = 1 + max(int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key)))
        swiglu = "blocks.0.mlp.w1.weight" in state
        hidden = state["blocks.0.mlp.w1.weight" if swiglu else "blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise BundleError(f"{path}: not a whole DINOv3 ViT ({error} is missing)") from error
    # RoPE has a quarter of a head's width in periods; files without them are S to H+, whose heads are 64 wide.
    head_dim = (
        4 * state["rope_embed.periods"].numel() if "rope_embed.periods" in state else (128 if width == 4096 else 64)
    )
    if width % head_dim:
        raise BundleError(f"{path}: width {width} does not divide into heads of {head_dim}; not a DINOv3 ViT")
    overrides: dict[str, object] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": width // head_dim,
        "mlp_ratio": hidden / width,
        "num_reg_tokens": state["storage_tokens"].shape[1] if "storage_tokens" in state else 0,
        "qkv_bias": _has_qkv_bias(state, path),
    }
    if swiglu:
        overrides |= {"swiglu_mlp": True, "swiglu_align_to": 1}  # aligned: timm's form with two separate inputs
    return BackboneSpec(
        timm_name="vit_small_patch16_dinov3",
        patch_px=patch,
        width=width,
        depth=depth,
        tap_layers=default_tap_layers(depth),
        licence="dinov3-license",
        overrides=tuple(overrides.items()),
    )


def _masked_bias(state: State, key: str) -> Tensor:
    """A qkv bias with Meta's mask applied (1 for q and v, 0 for k)."""
    mask = state.get(key + "_mask")
    bias = state[key].float()
    return bias if mask is None else torch.where(mask == 0, torch.zeros_like(bias), bias)


def _has_qkv_bias(state: State, path: Path) -> bool:
    keys = [key for key in state if key.endswith("attn.qkv.bias")]
    for key in keys:
        if _masked_bias(state, key).chunk(3)[1].any():
            raise BundleError(f"{path}: {key} has a bias for keys, which no DINOv3 has; it is another model")
    return any(bool(_masked_bias(state, key).any()) for key in keys)


def timm_from_meta(state: State, qkv_bias: bool) -> State:
    """A Meta DINOv3 state dict under timm's names (class Eva)."""
    result: State = {}
    for key, value in state.items():
        if _DEAD_BACKBONE.match(key):
            continue
        if key.endswith("attn.qkv.bias"):
            if qkv_bias:
                query, _, values = _masked_bias(state, key).chunk(3)
                result[key.replace("qkv.bias", "q_bias")] = query
                result[key.replace("qkv.bias", "v_bias")] = values
            continue
        result[_renamed(key, _TIMM_FROM_META) or key] = value
    return result


def strict_load(module: nn.Module, state: State, path: Path, resample_positions: bool = False) -> None:
    """Load every tensor as fp32, or say what does not fit.

    Args:
        module: where to.
        state: tensors by name; dead keys of backbones may be among them.
        path: named in errors.
        resample_positions: a position embedding of another grid is resampled (bicubic, antialiased) to the model's.

    Raises:
        BundleError: missing or unexpected keys, other shapes, or values that are not finite.
    """
    own = module.state_dict()
    state = {key: value for key, value in state.items() if key in own or not _DEAD_BACKBONE.match(key)}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise BundleError(
            f"{path} does not fit: missing {missing[:3]} ({len(missing)} keys), unexpected {unexpected[:3]} "
            f"({len(unexpected)} keys); it is of another model or another adapter"
        )
    if resample_positions and "pos_embed" in own and state["pos_embed"].shape != own["pos_embed"].shape:
        state["pos_embed"] = _resampled_positions(module, state["pos_embed"].float(), path)
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise BundleError(f"{path}: {key} is {tuple(value.shape)}, the model needs {tuple(own[key].shape)}")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise BundleError(f"{path}: {key} has values that are not finite; the file is damaged")
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()}, strict=True)


def _resampled_positions(vit: Any, positions: Tensor, path: Path) -> Tensor:
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    cells = positions.shape[1] - prefix
    side = round(cells**0.5)
    if side * side != cells:
        raise BundleError(f"{path}: pos_embed has {cells} cells, which is no square grid")
    return resample_abs_pos_embed(
        positions, new_size=list(vit.patch_embed.grid_size), old_size=[side, side], num_prefix_tokens=prefix
    )


# ---- adapters ----

METADATA_KEY = "brixel"


def read_adapter(path: Path) -> tuple[State, dict[str, object]]:
    """The live tensors of an adapter file, and what it says of itself (nothing, for the authors' files).

    Raises:
        BundleError: not an adapter file.
    """
    state = read_state(path)
    metadata: dict[str, object] = {}
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    if not any(key.startswith(("adapter.", "head.")) for key in state):
        raise BundleError(f"{path} is no adapter file: it has no adapter.* or head.* keys (found {sorted(state)[:3]})")
    live = {key: value for key, value in state.items() if not _DEAD_ADAPTER.match(key)}
    if (levels := live.get("adapter.level_embed")) is not None:
        live["adapter.level_embed"] = levels[:1]  # rows 1 and 2 are for the dead 1/16 and 1/32 queries
    return live, metadata


def save_adapter(path: Path, weights: State, metadata: dict[str, object]) -> None:
    """Write a refiner's weights as safetensors, under a temporary name first.

    Args:
        path: where to.
        weights: a refiner's state dict, with `adapter.*` and `head.*` keys.
        metadata: kept as JSON inside the file; at least `adapter`, `dim` and `tap_layers`.

    Raises:
        SpecError: metadata without those.
    """
    lacking = {"adapter", "dim", "tap_layers"} - metadata.keys()
    if lacking:
        raise SpecError(f"adapter metadata lacks {sorted(lacking)}")
    state = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})
