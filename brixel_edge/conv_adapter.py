"""Our adapter for small devices: convolutions and bilinear resizes only (work in progress)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dataclasses import dataclass

from brixel_edge.adapter import resize_map
from brixel_edge.errors import SpecError

FULL_FRAME_SCALE = 4
DEFAULT_WIDTH = 96


@dataclass(frozen=True, kw_only=True)
class ConvSettings:
    """What there is to choose.

    Attributes:
        width: channels at 1/8 and 1/4; 64 to 128 are sensible.
        full_frame: read the frame at four times the backbone's view on each side.
    """

    width: int = DEFAULT_WIDTH
    full_frame: bool = False

    def __post_init__(self) -> None:
        if self.width <= 0 or self.width % 16:
            raise SpecError(f"adapter width {self.width} is not a positive multiple of 16; 64, 96 and 128 are usual")



def conv_norm(inputs: int, outputs: int, kernel: int, stride: int, norm: bool = True, act=nn.ReLU) -> list[nn.Module]:
    padding = (kernel - 1) // 2 if kernel % 2 else 0
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=not norm)
    return [conv, *([nn.BatchNorm2d(outputs)] if norm else []), act()]


class ConvBlock(nn.Module):
    def __init__(self, width: int, kernel: int, expansion: int = 2, norm: bool = True, act=nn.ReLU) -> None:
        super().__init__()
        hidden = expansion * width
        self.block = nn.Sequential(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=not norm),
            *([nn.BatchNorm2d(width)] if norm else []),
            nn.Conv2d(width, hidden, 1),
            act(),
            nn.Conv2d(hidden, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class ConvAdapter(nn.Module):
    def __init__(self, dim, taps, width, hires, *, token_factor=2, blocks=(2, 2, 3), kernels=(7, 5, 3), expansion=2, norm=True, act=nn.ReLU, s2d=8, token_out=True) -> None:
        super().__init__()
        deep = int(token_factor * width)
        kw = dict(expansion=expansion, norm=norm, act=act)
        cn = lambda *a: conv_norm(*a, norm=norm, act=act)
        if hires and s2d == 8:
            self.stem = nn.Sequential(*cn(3, width // 2, 8, 8), *cn(width // 2, width, 3, 2))
        elif hires:
            self.stem = nn.Sequential(*cn(3, width // 3, 4, 4), *cn(width // 3, width // 2, 3, 2), *cn(width // 2, width, 3, 2))
        else:
            self.stem = nn.Sequential(*cn(3, width // 2, 3, 2), *cn(width // 2, width, 3, 2))
        self.stem8 = nn.Sequential(*cn(width, width, 3, 2)) if False else nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.Conv2d(width, width, 1)) if norm else nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width), nn.Conv2d(width, width, 1))
        self.taps = nn.ModuleList(nn.Conv2d(dim, deep, 1) for _ in range(taps))
        self.blocks16 = nn.Sequential(*(ConvBlock(deep, kernels[0], **kw) for _ in range(blocks[0])))
        self.narrow = nn.Conv2d(deep, width, 1)
        self.coarse = nn.Conv2d(deep, dim, 1) if token_out else None
        if token_out:
            nn.init.zeros_(self.coarse.weight); nn.init.zeros_(self.coarse.bias)
        self.blocks8 = nn.Sequential(*(ConvBlock(width, kernels[1], **kw) for _ in range(blocks[1])))
        self.blocks4 = nn.Sequential(*(ConvBlock(width, kernels[2], **kw) for _ in range(blocks[2])))

    def forward(self, image: Tensor, maps: list[Tensor]):
        h, w = maps[-1].shape[-2:]
        fine = self.stem(image)
        tokens = sum(p(m) for p, m in zip(self.taps, maps, strict=True))
        tokens = self.blocks16(tokens)
        base = maps[-1] if self.coarse is None else maps[-1] + self.coarse(tokens)
        x = resize_map(self.narrow(tokens), 2 * h, 2 * w) + resize_map(self.stem8(fine), 2 * h, 2 * w)
        x = self.blocks8(x)
        x = resize_map(x, 4 * h, 4 * w) + resize_map(fine, 4 * h, 4 * w)
        return self.blocks4(x), base


class ConvHead(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.out = nn.Conv2d(width, dim, 1)
        nn.init.zeros_(self.out.weight); nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        return self.out(x) + resize_map(base, *x.shape[-2:])


class ConvRefiner(nn.Module):
    def __init__(self, dim, taps, settings, **kw) -> None:
        super().__init__()
        self.settings = settings
        self.adapter = ConvAdapter(dim, taps, settings.width, settings.full_frame, **kw)
        self.head = ConvHead(settings.width, dim)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        return self.head(*self.adapter(image, maps))
