"""The paper's adapter and head: a ViT-Adapter without injectors, which reads the frozen ViT and does not feed back.

Adapter: image -> spatial prior (1/4 and 1/8 maps) -> the 1/8 cells are queries that read the four tapped ViT maps in
turn by deformable attention -> lifted onto the 1/4 map. Head: three shallow residual blocks at 64 channels, and the
ViT's own map as the base, which is first halved and then enlarged eight times; the paper does not say so, but released
adapters were trained that way.

Written from the description in arXiv 2511.05168 and of DINOv3's segmentation adapter. Only the parts that reach the
output exist here: the authors also carry 1/16 and 1/32 queries, an `up` and a `guide_proj` block and three norms that
change nothing (their keys are dropped by name in `weights`). Module names are the authors', so that their adapter files
load as they are.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from brixel_edge.network.deformable import DeformableAttention, reference_points

STEM_WIDTH = 64
HEAD_WIDTH = 64
HEAD_BLOCKS = 3
MIX_GROUPS = 4
NORM_EPS = 1e-6


def resize_map(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear (half-pixel) resize of (B, C, h, w); nothing where the size is right already."""
    if x.shape[-2:] == (height, width):
        return x
    return functional.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


def tokens_of(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C); in this order a map made of tokens, or channels-last, need not be copied."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _conv_norm(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class SpatialPrior(nn.Module):
    """Convolutions on the image: (B, 3, H, W) -> maps of width `dim` at 1/4 and at 1/8."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = STEM_WIDTH
        self.stem = nn.Sequential(
            *_conv_norm(3, width, 2),
            *_conv_norm(width, width, 1),
            *_conv_norm(width, width, 1),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.conv2 = nn.Sequential(*_conv_norm(width, 2 * width, 2))
        self.fc1 = nn.Conv2d(width, dim, 1)
        self.fc2 = nn.Conv2d(2 * width, dim, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The 1/4 and the 1/8 map of a normalised image."""
        quarter = self.stem(image)
        return self.fc1(quarter), self.fc2(self.conv2(quarter))


class DepthwiseConv(nn.Module):
    """3x3 depthwise convolution over tokens of a grid."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h * w, dim) -> the same shape."""
        batch, _, dim = x.shape
        return self.dwconv(x.transpose(1, 2).reshape(batch, dim, *grid)).flatten(2).transpose(1, 2)


class ConvFFN(nn.Module):
    """Feed-forward with a depthwise convolution before the activation; hidden width D/4."""

    def __init__(self, dim: int, ratio: float = 0.25) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h * w, dim) -> the same shape."""
        return self.fc2(functional.gelu(self.dwconv(self.fc1(x), grid)))


class DropPath(nn.Module):
    """Stochastic depth: leaves a residual branch out for a random part of a batch, only while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """`x`, or zero for some samples with the others scaled up."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class Extractor(nn.Module):
    """Queries read one ViT map, then pass a feed-forward; both residual."""

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.feat_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = DeformableAttention(dim)
        self.ffn = ConvFFN(dim)
        self.ffn_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, query: Tensor, references: Tensor, tokens: Tensor, grid: tuple[int, int], query_grid: tuple[int, int]
    ) -> Tensor:
        """(B, Q, D) queries and (B, h * w, D) ViT tokens -> (B, Q, D)."""
        query = query + self.attn(self.query_norm(query), references, self.feat_norm(tokens), grid)
        return query + self.drop_path(self.ffn(self.ffn_norm(query), query_grid))


class Interaction(nn.Module):
    """All extractors that read one tapped layer: one, and two more for the last layer."""

    def __init__(self, dim: int, drop_path: float, extra: int) -> None:
        super().__init__()
        self.extractor = Extractor(dim, drop_path)
        self.extra_extractors = nn.ModuleList(Extractor(dim, drop_path) for _ in range(extra)) if extra else None

    def extractors(self) -> list[Extractor]:
        """In the order in which they run."""
        return [self.extractor, *(cast(Extractor, extra) for extra in self.extra_extractors or ())]


class BrixelAdapter(nn.Module):
    """ViT maps and the image -> (B, D, 4h, 4w), the input of the head.

    Args:
        dim: D, the backbone's width.
        taps: how many ViT layers are read.
        drop_path: stochastic depth of the feed-forwards while training (authors: 0.3).
    """

    def __init__(self, dim: int, taps: int = 4, drop_path: float = 0.3) -> None:
        super().__init__()
        # The authors learn one embedding a level; the 1/8 level is the only one that is used.
        self.level_embed = nn.Parameter(torch.zeros(1, dim))
        self.spm = SpatialPrior(dim)
        self.interactions = nn.ModuleList(Interaction(dim, drop_path, 2 if i == taps - 1 else 0) for i in range(taps))
        self.norm1 = nn.GroupNorm(32, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        nn.init.normal_(self.level_embed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ConvFFN):
                for linear in (module.fc1, module.fc2):
                    nn.init.trunc_normal_(linear.weight, std=0.02)
                    nn.init.zeros_(linear.bias)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Refine.

        Args:
            image: (B, 3, H, W), normalised.
            maps: the tapped ViT maps, (B, D, h, w) each, after the ViT's final norm.

        Returns:
            (B, D, 4h, 4w).
        """
        height, width = maps[0].shape[-2:]
        fine, coarse = self.spm(image)
        # For patch 16 these resizes are no-ops; patch 14 has 3.5 pixels a cell.
        fine = resize_map(fine, 4 * height, 4 * width)
        coarse = resize_map(coarse, 2 * height, 2 * width)
        query_grid = (2 * height, 2 * width)
        query = tokens_of(coarse) + self.level_embed
        references = reference_points(*query_grid, device=query.device)
        for interaction, tapped in zip(self.interactions, maps, strict=True):
            tokens = tokens_of(tapped)
            for extractor in cast(Interaction, interaction).extractors():
                query = extractor(query, references, tokens, (height, width), query_grid)
        refined = query.transpose(1, 2).reshape(query.shape[0], -1, *query_grid)
        return self.norm1(fine + resize_map(refined, 4 * height, 4 * width))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        # As tokens: OpenVINO moves a map to them and back for nothing, but copies it for a permutation of four axes.
        return self.ln(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class ResidualBlock(nn.Module):
    """x + pointwise(GELU(pointwise(GELU(depthwise(norm(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            ChannelNorm(channels),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return x + self.block(x)


class BrixelHead(nn.Module):
    """Adapter map and the last ViT map -> dense features (B, D, 4h, 4w)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.align_in = nn.Conv2d(dim, HEAD_WIDTH, 1)
        self.trunk = nn.Sequential(*(ResidualBlock(HEAD_WIDTH) for _ in range(HEAD_BLOCKS)))
        self.mix = nn.Conv2d(HEAD_WIDTH, HEAD_WIDTH, 3, padding=1, groups=MIX_GROUPS)
        self.head_norm = ChannelNorm(HEAD_WIDTH)
        self.out_conv = nn.Conv2d(HEAD_WIDTH, dim, 1)
        # What is taken of the backbone's map: all of it, or an answer that an export folds in (see `network.head`).
        self.project: nn.Module = nn.Identity()

    def forward(self, refined: Tensor, base: Tensor) -> Tensor:
        """Fuse.

        Args:
            refined: (B, D, 4h, 4w), from the adapter.
            base: (B, D, h, w), the last tapped ViT map; h and w even.

        Returns:
            (B, D, 4h, 4w).
        """
        height, width = base.shape[-2:]
        x = self.align_in(refined)
        # Each block has a residual of its own, and the trunk one around all three (found against the authors' outputs).
        x = self.mix(x + self.trunk(x))
        halved = resize_map(base, height // 2, width // 2)
        return self.out_conv(self.head_norm(x)) + resize_map(self.project(halved), 4 * height, 4 * width)


class BrixelRefiner(nn.Module):
    """The paper's adapter and head.

    Args:
        dim: D, the backbone's width; a multiple of 32.
        taps: how many ViT layers are read.
    """

    def __init__(self, dim: int, taps: int = 4) -> None:
        super().__init__()
        self.adapter = BrixelAdapter(dim, taps)
        self.head = BrixelHead(dim)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """(B, 3, H, W) normalised and the tapped (B, D, h, w) maps -> (B, D, 4h, 4w)."""
        return self.head(self.adapter(image, maps), maps[-1])
