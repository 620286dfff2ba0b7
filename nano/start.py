"""A start in closed form: the network is filled in, block by block, so that it says nearly what the teacher says.

- The patch embedding's small filters are k-means' of small patches, its large one is their principal components.
- The hidden units of the first MLP look in random directions; the second linear is a ridge regression to the teacher's
  local numbers.
- Attention of the later blocks is position alone: RoPE with constant queries and keys gives Gaussian windows. What they
  average is regressed to the teacher's context.
- Later MLPs look in random directions too, regressed to what of the teacher is still missing.

Everything is an ordinary ViT afterwards, and training goes on from there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from brixel_edge.network.texture_stem import FILTER_PX, TextureStem
from nano.context import WINDOWS, Window
from nano.descriptor import Filters
from nano.network import PATCH_PX, normalise
from nano.teacher import LOCAL, PLAIN

CONSTANT, MARKER, RESERVED = 0, 1, 2  # channels: always 1 after a norm; 1 in class token and registers alone
EMBEDDED = 0.2  # standard deviation of a whitened patch beside the teacher's 1
PERIOD = 5  # of RoPE's: 4.2, the shortest that is unique over the picture, which is 2 wide
SLOWEST = 15


class Sample:
    """Windows for the fits: what the network sees and what the teacher says, of one grid size.

    Args:
        images: (N, H, W, 3) bytes.
        targets: (N, h, w, d), from the teacher.
    """

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images = images
        self.targets = targets.flatten(1, 2)


@torch.no_grad()
def start_closed(vit: Any, sample: Sample, filters: Filters, seed: int = 0) -> list[float]:
    """Fill in `vit`, whose width is that of the targets and 2 more.

    Returns:
        after each block, the share of the teacher's variance that is explained (R2).
    """
    generator = torch.Generator().manual_seed(seed)
    images = normalise(sample.images)
    _fill_stem(vit.patch_embed.proj, images, sample.targets[..., :LOCAL], filters)
    _fill_prefix(vit, generator)
    goal = F.pad(sample.targets, (RESERVED, 0))
    x, rope = vit._pos_embed(vit.patch_embed(images))
    prefix = vit.num_prefix_tokens
    explained = []
    for index, block in enumerate(vit.blocks):
        written = slice(RESERVED, RESERVED + LOCAL) if index == 0 else slice(RESERVED, None)
        if index == 0:
            block.attn.proj.weight.zero_()
            block.attn.proj.bias.zero_()
        else:
            _fill_attention(block, x, rope, goal, prefix)
        seen = (x + block.gamma_1 * block.attn(block.norm1(x), rope=rope))[:, prefix:]
        rows = block.norm2(seen).flatten(0, 1)
        count = block.mlp.fc1.out_features
        _fill_mlp(block, seen, goal, written, _random_units(rows, count, generator))
        x = block(x, rope=rope)
        rest = (goal - x[:, prefix:])[..., RESERVED:].square().mean() / goal[..., RESERVED:].square().mean()
        explained.append(1 - float(rest))
    return explained


def _fill_stem(stem: TextureStem, images: Tensor, local: Tensor, filters: Filters) -> None:
    """Learned filters; their responses regressed to the local numbers; whitened patches in the other channels.

    Args:
        stem: is filled in.
        images: normalised, (N, 3, H, W).
        local: the teacher's local numbers, (N, h * w, LOCAL).
        filters: k-means'.
    """
    scale = filters.weight.norm(dim=1).mean()
    weight = (filters.weight - filters.weight.mean(1, keepdim=True)) / scale
    stem.filters.weight.copy_(weight.reshape(-1, 3, FILTER_PX, FILTER_PX))
    stem.threshold.copy_((filters.offset / scale + filters.threshold).expand(2, -1))
    stem.edges.weight.copy_(_edge_filters(len(stem.edges.weight)))
    stem.edges.bias.zero_()
    patches = F.unfold(images, PATCH_PX, stride=PATCH_PX).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    white = (vectors.flip(1) / (values.flip(0) + 0.02).sqrt()).T
    quarters = torch.cat([F.unfold(stem.texture(part), 2, stride=2) for part in images.split(64)])
    texture = quarters.transpose(1, 2).flatten(0, 1)
    spread = texture.std(0)
    shown = 64  # components of the patch that help
    solved = ridge(torch.cat([texture / spread, (patches - mean) @ white[:shown].T], 1), local.flatten(0, 1), 1e-2)
    to_texture, to_patch, constant = solved[: len(spread)], solved[len(spread) : -1], solved[-1]
    first, rest = slice(RESERVED, RESERVED + LOCAL), slice(RESERVED + LOCAL, None)
    stem.mix.weight.zero_()
    stem.mix.weight[first] = (to_texture / spread[:, None]).T.reshape(LOCAL, -1, 2, 2)
    pixels = torch.zeros(len(stem.patch.bias), len(mean))
    pixels[first] = to_patch.T @ white[:shown]
    pixels[rest] = EMBEDDED * white[: len(pixels) - RESERVED - LOCAL]
    stem.patch.weight.copy_(pixels.reshape(stem.patch.weight.shape))
    stem.patch.bias.copy_(-pixels @ mean)
    stem.patch.bias[first] += constant


def _edge_filters(count: int) -> Tensor:
    """Differences of brightness along `count` directions under a bell: (count, 3, FILTER_PX, FILTER_PX)."""
    place = torch.arange(FILTER_PX) - (FILTER_PX - 1) / 2
    bell = torch.exp(-0.5 * (place / 1.0).square())
    angles = torch.arange(count) * (2 * math.pi / count)
    along = angles.cos()[:, None, None] * place + angles.sin()[:, None, None] * place[:, None]
    kernels = along * bell[:, None] * bell
    return (kernels / kernels.abs().sum((1, 2), keepdim=True))[:, None].expand(-1, 3, -1, -1).clone()


def _fill_prefix(vit: Any, generator: torch.Generator) -> None:
    """Class token and registers: told apart by the marker."""
    for parameter in (vit.cls_token, vit.reg_token):
        parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        parameter[..., CONSTANT] = 0
        parameter[..., MARKER] = 1


def _random_units(rows: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random directions: (count, D) weights, whose response to `rows` (N, D) has a deviation of 1, and thresholds."""
    weight = torch.randn(count, rows.shape[1], generator=generator)
    weight = weight / (rows @ weight.T).std(0)[:, None]
    return weight, torch.randn(count, generator=generator) * 0.3 - weight @ rows.mean(0)


def _fill_mlp(block: Any, seen: Tensor, goal: Tensor, written: slice, hidden: tuple[Tensor, Tensor]) -> None:
    """Hidden units as given; what they say is regressed to what is missing in the `written` channels."""
    rows = block.norm2(seen).flatten(0, 1)
    block.mlp.fc1.weight.copy_(hidden[0])
    block.mlp.fc1.bias.copy_(hidden[1])
    active = F.gelu(block.mlp.fc1(rows))
    missing = (goal - seen).flatten(0, 1)
    solved = ridge(active, missing[:, written])
    block.mlp.fc2.weight.zero_()
    block.mlp.fc2.bias.zero_()
    block.mlp.fc2.weight[written] = solved[:-1].T / block.gamma_2[written, None]
    block.mlp.fc2.bias[written] = solved[-1] / block.gamma_2[written]


def _fill_attention(block: Any, x: Tensor, rope: Tensor, goal: Tensor, prefix: int) -> None:
    """Heads average the local numbers over windows; the output is regressed to the context that is missing."""
    block.norm1.weight[CONSTANT] = 0
    block.norm1.bias[CONSTANT] = 1
    width = block.attn.qkv.weight.shape[1]
    head = width // len(WINDOWS)
    query, key, value = torch.zeros(3, len(WINDOWS), head, width)
    for index, window in enumerate(WINDOWS):
        _fill_window(query[index], key[index], window, head)
        value[index, :, RESERVED : RESERVED + head] = torch.eye(head)
    block.attn.qkv.weight.copy_(torch.cat([part.flatten(0, 1) for part in (query, key, value)]))
    block.attn.proj.weight.copy_(torch.eye(width))
    block.attn.proj.bias.zero_()
    averaged = block.attn(block.norm1(x), rope=rope)[:, prefix:].flatten(0, 1)
    written = slice(RESERVED + LOCAL, RESERVED + PLAIN)
    missing = (goal - x[:, prefix:]).flatten(0, 1)[:, written]
    solved = ridge(averaged, missing)
    block.attn.proj.weight.zero_()
    block.attn.proj.weight[written] = solved[:-1].T / block.gamma_1[written, None]
    block.attn.proj.bias[written] = solved[-1] / block.gamma_1[written]


def _fill_window(query: Tensor, key: Tensor, window: Window, head: int) -> None:
    """Rows of queries and keys of one head, which act on the constant and on the marker."""
    half, periods = head // 2, head // 4
    period = 100 ** (PERIOD / periods)
    strength = 0.0 if window.spread is None else (period / (2 * math.pi * 2 * window.spread)) ** 2
    root = math.sqrt(strength * math.sqrt(head))
    for axis, shift in enumerate((window.above, 0.0)):
        angle = 2 * math.pi * 2 * shift / period
        pair = axis * periods + PERIOD
        query[pair, CONSTANT] = root
        key[pair, CONSTANT] = root * math.cos(angle)
        key[pair + half, CONSTANT] = root * math.sin(angle)
    # Class token and registers have no place; they are kept out by a score that falls below any other.
    query[SLOWEST, CONSTANT] = 4
    key[SLOWEST, MARKER] = -(4 * strength + 20) * math.sqrt(head) / 4 / 15


def ridge(rows: Tensor, goal: Tensor, strength: float = 1e-3) -> Tensor:
    """Least squares with a constant: (C + 1, d), the constant last."""
    ones = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    gram = ones.T @ ones / len(ones)
    gram += strength * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.linalg.solve(gram, ones.T @ goal / len(ones))
