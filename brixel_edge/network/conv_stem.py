"""First layers of the conv adapter: what it sees of the picture.

A cell of the map at 1/4 is one patch of the teacher's view. What a teacher makes of a patch begins with its patch
embedding and its first MLP, and the backbone has the same ones. Neurons of that MLP explain far more of a teacher than
as many random ones do (docs/log.md). So the stem is that MLP, made smaller: linear filters, neurons with a ReLU, a mix
of them. It starts as the backbone's and is trained on.

What the view lacks comes from the frame as texture: how strongly fine filters respond, averaged over the cell. It also
shifts the neurons' thresholds, for the teacher's LayerNorm divides by a patch's contrast.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from brixel_edge.model.backbones import IMAGENET_MEAN, IMAGENET_STD
from brixel_edge.network.texture_stem import TextureStem

CELL_PX = 4  # of the view, a side of a cell at 1/4
WINDOW_PX = 8  # a cell and what bilinear enlargement needs around it
PATCH_PX = 16  # of the teacher's view; patches of 14 px are enlarged to it
NEURONS = 3  # for each channel of the adapter
TEXTURE_PX = 4  # of the frame
TEXTURES = 28
STEM_TEXTURES = 80  # of a texture stem
# Of photographs, roughly: neighbouring pixels of a view, and colours of a pixel.
NEIGHBOURS, COLOURS = 0.8, 0.85
MIX_SCALE = 0.3


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
    colours = functional.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]]), dim=1)
    frequencies = sorted(((v, u) for v in range(size_px) for u in range(size_px)), key=lambda f: (sum(f), max(f), f))
    shares = (count - 2 * (count // 4), count // 4, count // 4)
    return torch.stack(
        [
            colour[:, None, None] * waves[v][:, None] * waves[u]
            for colour, share in zip(colours, shares, strict=True)
            for v, u in frequencies[:share]
        ]
    )


def texture_filters() -> Tensor:
    """(TEXTURES, 3, TEXTURE_PX, TEXTURE_PX): cosines without the means, whose strength the view shows already."""
    brightness, red_green, blue_yellow = dct_filters(TEXTURE_PX, 32).split((16, 8, 8))
    return torch.cat((brightness[1:], red_green[1:], blue_yellow[1:]))[:TEXTURES]


def _texture() -> nn.Sequential:
    """Frame (B, 3, 4H, 4W) -> (B, TEXTURES, H/4, W/4). A space-to-depth and a 1x1 convolution in one, first."""
    cells = PATCH_PX // TEXTURE_PX
    filters = nn.Conv2d(3, TEXTURES, TEXTURE_PX, stride=TEXTURE_PX, bias=False)
    mean = nn.Conv2d(TEXTURES, TEXTURES, cells, stride=cells, groups=TEXTURES, bias=False)
    with torch.no_grad():
        filters.weight.copy_(texture_filters())
        mean.weight.fill_(1 / cells**2)
    return nn.Sequential(filters, nn.BatchNorm2d(TEXTURES), nn.ReLU(inplace=True), mean, nn.BatchNorm2d(TEXTURES))


def _texture_stem() -> TextureStem:
    """The same by a backbone's kind of patch embedding, narrower; its filters stay as they are."""
    stem = TextureStem(STEM_TEXTURES, IMAGENET_MEAN, IMAGENET_STD)
    for fixed in (*stem.filters.parameters(), *stem.edges.parameters(), stem.threshold):
        fixed.requires_grad_(False)
    return stem


class ImageStem(nn.Module):
    """Normalised view, or frame, -> detail at 1/4 of the view.

    Args:
        width: channels given.
        frame_scale: pixels of the frame for each of the view, a side; None to read the view alone.
        has_texture_stem: texture is what a backbone with a texture stem sees of the frame.
    """

    def __init__(self, width: int, frame_scale: int | None, *, has_texture_stem: bool = False) -> None:
        super().__init__()
        neurons = NEURONS * width
        padding = (WINDOW_PX - CELL_PX) // 2
        self.frame_scale = frame_scale
        self.filters = nn.Conv2d(3, width // 2, WINDOW_PX, stride=CELL_PX, padding=padding, bias=False)
        self.neurons = nn.Sequential(nn.Conv2d(width // 2, neurons, 1, bias=False), nn.BatchNorm2d(neurons))
        self.mix = nn.Conv2d(neurons, width, 1)
        if frame_scale is not None:
            self.texture = _texture_stem() if has_texture_stem else _texture()
            textures = STEM_TEXTURES if has_texture_stem else TEXTURES
            self.thresholds = nn.Conv2d(textures, neurons, 1, bias=False)
            self.mix_texture = nn.Conv2d(textures, width, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), or a frame of (B, 3, scale * H, scale * W) -> (B, width, H/4, W/4)."""
        if self.frame_scale is None:
            return self.mix(functional.relu(self.neurons(self.filters(image))))
        texture = self.texture(image)
        view = functional.avg_pool2d(image, self.frame_scale)
        neurons = functional.relu(self.neurons(self.filters(view)) + self.thresholds(texture))
        return self.mix(neurons) + self.mix_texture(texture)

    @torch.no_grad()
    def adopt_texture(self, vit: Any) -> None:
        """Start as a narrower copy of a backbone's texture stem: the directions in which its tokens differ most."""
        theirs = getattr(getattr(vit, "patch_embed", None), "proj", None)
        ours = getattr(self, "texture", None)
        if not isinstance(theirs, TextureStem) or not isinstance(ours, TextureStem):
            return
        mixed = theirs.mix.weight.flatten(1)
        strongest = torch.linalg.svd(mixed, full_matrices=False)[0][:, :STEM_TEXTURES].T
        ours.load_state_dict(
            theirs.state_dict()
            | {
                "patch.weight": torch.einsum("nd,dchw->nchw", strongest, theirs.patch.weight),
                "patch.bias": strongest @ theirs.patch.bias,
                "mix.weight": torch.einsum("nd,dchw->nchw", strongest, theirs.mix.weight),
            }
        )
        ours.mean.copy_(theirs.mean)
        ours.std.copy_(theirs.std)

    @torch.no_grad()
    def adopt_first_block(self, vit: nn.Module) -> None:
        """Start as what the ViT's own first MLP makes of a patch, as far as that is known and wide enough.

        The first attention and LayerNorm's division are left out: this is where training starts, nothing more.
        """
        first = first_neurons(vit)
        if first is None or len(first[0]) < self.mix.in_channels:
            return
        seen, given = first
        directions = seen.flatten(1) @ _enlargement().T
        root = torch.linalg.cholesky(_pixel_covariance())
        spread = (directions @ root).norm(dim=1)
        chosen = (spread * given.norm(dim=0)).argsort(descending=True)[: self.mix.in_channels]
        directions = directions[chosen] / spread[chosen, None].clamp(min=1e-12)
        left, strength, _ = torch.linalg.svd(directions @ root, full_matrices=False)
        rank = self.filters.out_channels
        left, strength = left[:, :rank], strength[:rank].clamp(min=1e-6)
        self.filters.weight.copy_(((left / strength).T @ directions).reshape(self.filters.weight.shape))
        first_layer = cast(nn.Conv2d, self.neurons[0])
        first_layer.weight.copy_((left * strength)[:, :, None, None])
        _, strength, right = torch.linalg.svd(given[:, chosen], full_matrices=False)
        count = min(len(self.mix.weight), len(right))
        scale = MIX_SCALE / strength.mean().clamp(min=1e-12)
        self.mix.weight[:count] = (scale * strength[:count, None] * right[:count])[:, :, None, None]


def first_neurons(vit: Any) -> tuple[Tensor, Tensor] | None:
    """What the neurons of a ViT's first MLP look for in a patch, and what each of them gives.

    Args:
        vit: timm's. Of gated MLPs the gates are taken.

    Returns:
        (N, 3, PATCH_PX, PATCH_PX) and (D, N), fp32; None for a ViT that is built otherwise.
    """
    try:
        embedding, block = vit.patch_embed.proj.weight.float(), vit.blocks[0]
        first = block.mlp.fc1_g if hasattr(block.mlp, "fc1_g") else block.mlp.fc1
        gain, given = block.norm2.weight.float(), block.mlp.fc2.weight.float()
    except AttributeError:
        return None
    if len(first.weight) != given.shape[1]:
        return None
    if embedding.shape[-1] != PATCH_PX:
        embedding = functional.interpolate(embedding, (PATCH_PX, PATCH_PX), mode="bilinear", align_corners=False)
    weight = first.weight.float() * gain
    weight = weight - weight.mean(1, keepdim=True)  # LayerNorm takes the mean away
    return torch.einsum("nd,dchw->nchw", weight, embedding), given


def _enlargement() -> Tensor:
    """(3 * WINDOW_PX**2, 3 * PATCH_PX**2): a window's pixels, enlarged bilinearly, within the cell."""
    pixels = torch.eye(3 * WINDOW_PX**2).reshape(-1, 3, WINDOW_PX, WINDOW_PX)
    scale = PATCH_PX // CELL_PX
    enlarged = functional.interpolate(pixels, scale_factor=scale, mode="bilinear", align_corners=False)
    border = scale * (WINDOW_PX - CELL_PX) // 2
    return enlarged[..., border:-border, border:-border].flatten(1)


def _pixel_covariance() -> Tensor:
    """(3 * WINDOW_PX**2) squared, of a photograph's window: a model, so that no photograph is needed."""
    places = torch.arange(WINDOW_PX)
    line = NEIGHBOURS ** (places[:, None] - places).abs().float()
    colours = torch.full((3, 3), COLOURS) + (1 - COLOURS) * torch.eye(3)
    return torch.kron(colours, torch.kron(line, line)) + 1e-4 * torch.eye(3 * WINDOW_PX**2)
