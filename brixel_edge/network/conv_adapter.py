"""Our adapter for small devices: convolutions and bilinear resizes only.

Tapped ViT maps -> a wide, cheap path on the token grid, which corrects the backbone's own map there -> 1/8 -> 1/4,
where the picture's own detail joins -> a narrow residual on the enlarged map. No GridSample, no attention, no norm that
an engine has to compute (BatchNorm is folded into convolutions at export). For a ViT-S at 256 px it takes a third of
the GFLOP of the paper's adapter without its dead parts.

The paper's student guesses detail above its own resolution. Ours may be given the full frame, at four times the
backbone's view on each side, and then sees it (`conv_stem`).

Key names must not be those that `weights` drops as dead parts of the authors' adapter (`adapter.up`, `adapter.norm2`).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from brixel_edge.model.adapters import FULL_FRAME_SCALE, ConvSettings
from brixel_edge.network.adapter import resize_map
from brixel_edge.network.conv_stem import ImageStem

# Blocks and kernels on the token grid, at 1/8 and at 1/4. The token grid is small: wide kernels and twice the channels
# cost little there.
TOKEN_FACTOR = 2
BLOCKS = (2, 2, 3)
KERNELS = (7, 5, 3)
EXPANSION = 2


class ConvBlock(nn.Module):
    """x + pointwise(ReLU(pointwise(depthwise(x)))), BatchNorm after the depthwise convolution."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, EXPANSION * width, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(EXPANSION * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same shape."""
        return x + self.block(x)


class ConvAdapter(nn.Module):
    """Picture and tapped maps -> what the head needs.

    Args:
        dim: D, the backbone's width.
        taps: how many ViT layers are read.
        settings: width and input.
    """

    def __init__(self, dim: int, taps: int, settings: ConvSettings) -> None:
        super().__init__()
        width = settings.width
        tokens = TOKEN_FACTOR * width
        scale = FULL_FRAME_SCALE if settings.full_frame else None
        self.stem = ImageStem(width, scale, has_texture_stem=settings.texture_stem)
        self.halve = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1),
        )
        self.taps = nn.ModuleList(nn.Conv2d(dim, tokens, 1) for _ in range(taps))
        self.token_blocks = nn.Sequential(*(ConvBlock(tokens, KERNELS[0]) for _ in range(BLOCKS[0])))
        self.narrow = nn.Conv2d(tokens, width, 1)
        self.eighth_blocks = nn.Sequential(*(ConvBlock(width, KERNELS[1]) for _ in range(BLOCKS[1])))
        self.quarter_blocks = nn.Sequential(*(ConvBlock(width, KERNELS[2]) for _ in range(BLOCKS[2])))

    def forward(self, image: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Refine.

        Args:
            image: the view or the frame, normalised.
            maps: the tapped ViT maps, (B, D, h, w) each, after the ViT's final norm.

        Returns:
            (B, width, 4h, 4w) and (B, 2 * width, h, w).
        """
        height, width = maps[0].shape[-2:]
        # Of the picture's maps these resizes are no-ops for patch 16; patch 14 has 3.5 pixels a cell.
        detail = self.stem(image)
        projected = [tap(tapped) for tap, tapped in zip(self.taps, maps, strict=True)]
        tokens = self.token_blocks(functools.reduce(torch.add, projected))
        x = resize_map(self.narrow(tokens), 2 * height, 2 * width)
        x = self.eighth_blocks(x + resize_map(self.halve(detail), 2 * height, 2 * width))
        x = resize_map(x, 4 * height, 4 * width) + resize_map(detail, 4 * height, 4 * width)
        return self.quarter_blocks(x), tokens


class UnitConv(nn.Conv2d):
    """1x1 convolution whose weights are in units of the features that it gives.

    Without it a step of Adam would be a large one for a backbone with small features, and a small one for a backbone
    with large ones. Exporters fold the unit, a constant, into the weights.
    """

    unit: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)
        self.register_buffer("unit", torch.ones(outputs))
        nn.init.normal_(self.weight, std=0.001)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        assert self.bias is not None
        return self._conv_forward(input, self.weight * self.unit.reshape(-1, 1, 1, 1), self.bias * self.unit)


class ConvHead(nn.Module):
    """The backbone's own map, corrected on its own grid and enlarged, plus a residual at 1/4."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.correct = UnitConv(TOKEN_FACTOR * width, dim)
        self.out = UnitConv(width, dim)
        # What is taken of the backbone's map: all of it, or an answer that an export folds in (see `network.head`).
        self.project: nn.Module = nn.Identity()

    def forward(self, refined: Tensor, tokens: Tensor, base: Tensor) -> Tensor:
        """Fuse.

        Args:
            refined: (B, width, 4h, 4w), from the adapter.
            tokens: (B, 2 * width, h, w), from the adapter.
            base: (B, D, h, w), the last tapped ViT map.

        Returns:
            (B, D, 4h, 4w).
        """
        corrected = self.project(base) + self.correct(tokens)
        return self.out(refined) + resize_map(corrected, *refined.shape[-2:])


class ConvRefiner(nn.Module):
    """Our adapter and head.

    Args:
        dim: D, the backbone's width.
        taps: how many ViT layers are read.
        settings: width and input.
    """

    def __init__(self, dim: int, taps: int, settings: ConvSettings) -> None:
        super().__init__()
        self.settings = settings
        self.adapter = ConvAdapter(dim, taps, settings)
        self.head = ConvHead(dim, settings.width)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Picture (the view, or the frame at four times its size) and tapped (B, D, h, w) maps -> (B, D, 4h, 4w)."""
        refined, tokens = self.adapter(image, maps)
        return self.head(refined, tokens, maps[-1])

    def adopt(self, vit: nn.Module) -> None:
        """Start from the backbone: its final norm's weights are the unit of what is learnt, its first MLP the stem."""
        unit = getattr(getattr(vit, "norm", None), "weight", None)
        if isinstance(unit, Tensor):
            for conv in (self.head.correct, self.head.out):
                conv.unit.copy_(unit.detach().abs())
        self.adapter.stem.adopt_first_block(vit)
        self.adapter.stem.adopt_texture(vit)
