"""Our adapter for small devices: convolutions and bilinear resizes only.

Tapped ViT maps -> a wide, cheap path on the token grid, which corrects the backbone's own map there -> 1/8 -> 1/4,
where the picture's own detail joins -> a narrow residual on the enlarged map. No GridSample, no attention, no norm that
an engine has to compute (BatchNorm is folded into convolutions at export). For a ViT-S at 256 px it takes a third of
the GFLOP of the paper's adapter without its dead parts.

The paper's student guesses detail above its own resolution. Ours may be given the full frame, at four times the
backbone's view on each side, and then sees it.

Key names must not be those that `weights` drops as dead parts of the authors' adapter (`adapter.up`, `adapter.norm2`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brixel_edge.adapter import resize_map
from brixel_edge.errors import SpecError

FULL_FRAME_SCALE = 4
DEFAULT_WIDTH = 96

# Blocks and kernels on the token grid, at 1/8 and at 1/4. The token grid is small: wide kernels and twice the channels
# cost little there.
TOKEN_FACTOR = 2
BLOCKS = (2, 2, 3)
KERNELS = (7, 5, 3)
EXPANSION = 2
FRAME_PATCH_PX = 8


@dataclass(frozen=True, kw_only=True)
class ConvSettings:
    """What there is to choose.

    Attributes:
        width: channels at 1/8 and 1/4; 64 to 128 are sensible, 96 keeps a ViT-S within 2.5 GFLOP.
        full_frame: read the frame at four times the backbone's view on each side.
    """

    width: int = DEFAULT_WIDTH
    full_frame: bool = False

    def __post_init__(self) -> None:
        if type(self.width) is not int or self.width <= 0 or self.width % 16:
            raise SpecError(f"adapter width {self.width} is not a positive multiple of 16; 64, 96 and 128 are usual")
        if type(self.full_frame) is not bool:
            raise SpecError(f"full_frame {self.full_frame!r} is not true or false")


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    padding = (kernel - 1) // 2 if kernel != stride else 0
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def dct_filters(size_px: int, count: int) -> Tensor:
    """The lowest frequencies of a picture's patch, orthonormal: what JPEG keeps.

    Args:
        size_px: side of the patch.
        count: filters; half of brightness, a quarter each of red-green and of blue-yellow.

    Returns:
        (count, 3, size_px, size_px).
    """
    x = (torch.arange(size_px) + 0.5) / size_px
    waves = torch.stack([torch.cos(math.pi * k * x) for k in range(size_px)]) * math.sqrt(2 / size_px)
    waves[0] /= math.sqrt(2)
    colours = nn.functional.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]]), dim=1)
    frequencies = sorted(((v, u) for v in range(size_px) for u in range(size_px)), key=lambda f: (sum(f), max(f), f))
    shares = (count - 2 * (count // 4), count // 4, count // 4)
    return torch.stack(
        [
            colour[:, None, None] * waves[v][:, None] * waves[u]
            for colour, share in zip(colours, shares, strict=True)
            for v, u in frequencies[:share]
        ]
    )


def image_stem(settings: ConvSettings) -> nn.Sequential:
    """Normalised view (B, 3, H, W), or frame (B, 3, 4H, 4W), -> (B, width, H/4, W/4).

    The frame is cut into patches of 8 px, which is a space-to-depth and a 1x1 convolution in one. Its filters start as
    cosines: random ones take several times as many steps to tell detail from brightness.
    """
    width = settings.width
    if not settings.full_frame:
        return nn.Sequential(*_conv_norm(3, width // 2, 3, 2), *_conv_norm(width // 2, width, 3, 2))
    patches = _conv_norm(3, width // 2, FRAME_PATCH_PX, FRAME_PATCH_PX)
    with torch.no_grad():
        patches[0].weight.copy_(dct_filters(FRAME_PATCH_PX, width // 2))  # type: ignore[operator, union-attr]
    return nn.Sequential(*patches, *_conv_norm(width // 2, width, 3, 2))


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
        self.stem = image_stem(settings)
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
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

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

    def forward(self, refined: Tensor, tokens: Tensor, base: Tensor) -> Tensor:
        """Fuse.

        Args:
            refined: (B, width, 4h, 4w), from the adapter.
            tokens: (B, 2 * width, h, w), from the adapter.
            base: (B, D, h, w), the last tapped ViT map.

        Returns:
            (B, D, 4h, 4w).
        """
        corrected = base + self.correct(tokens)
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

    def adopt_unit(self, unit: Tensor) -> None:
        """Learn in units of the backbone's features: (D,), the weights of its final norm."""
        for conv in (self.head.correct, self.head.out):
            conv.unit.copy_(unit.detach().abs())
