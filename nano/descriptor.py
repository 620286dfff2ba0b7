"""A descriptor by hand: colour, gradients and learned k-means filters, pooled over windows of several sizes.

The filters are learned in the manner of Coates & Ng: spherical k-means on whitened, contrast-normalised small patches
of the photographs, with a rectified response. Nothing here is trained by gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nano.photographs import Pyramid

BASE_PX = 4  # of the finest cells
PATCH_PX = 6
_BINS = 8
_RGB_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])


@dataclass(frozen=True)
class Filters:
    """Learned filters of small patches.

    Attributes:
        weight: (K, 3 * PATCH_PX ** 2), to be applied to contrast-normalised patches.
        offset: (K,), of the mean patch.
        threshold: below which a response is 0.
    """

    weight: Tensor
    offset: Tensor
    threshold: float = 0.5


def to_unit(image: np.ndarray) -> Tensor:
    """(H, W, 3) bytes as (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def _patches(image: Tensor, stride: int) -> Tensor:
    """Contrast-normalised patches, (N, 3 * PATCH_PX ** 2)."""
    padded = F.pad(image, (2, 2, 2, 2), mode="replicate")
    columns = F.unfold(padded, PATCH_PX, stride=stride)[0].T
    columns = columns - columns.mean(1, keepdim=True)
    return columns / (columns.square().mean(1, keepdim=True) + 0.02**2).sqrt()


def learn_filters(pyramid: Pyramid, count: int = 96, samples: int = 200_000, seed: int = 0) -> Filters:
    """Filters by spherical k-means on whitened patches of the photographs at several sizes."""
    generator = torch.Generator().manual_seed(seed)
    per_photo = samples // len(pyramid)
    drawn = []
    for index, levels in enumerate(pyramid.levels):
        patches = _patches(to_unit(levels[2 + index % (len(levels) - 2)]), stride=3)
        drawn.append(patches[torch.randperm(len(patches), generator=generator)[:per_photo]])
    data = torch.cat(drawn)
    mean = data.mean(0)
    values, vectors = torch.linalg.eigh((data - mean).T @ (data - mean) / len(data))
    whiten = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
    white = F.normalize((data - mean) @ whiten)
    centres = spherical_kmeans(white, count, 15, generator)
    weight = centres @ whiten
    return Filters(weight, weight @ mean)


def spherical_kmeans(rows: Tensor, count: int, rounds: int, generator: torch.Generator) -> Tensor:
    """`count` unit centres of unit rows; a centre that nothing chooses is drawn anew."""
    centres = rows[torch.randperm(len(rows), generator=generator)[:count]]
    for _ in range(rounds):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in rows.split(20_000)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        empty = sums.norm(dim=1) == 0
        sums[empty] = rows[torch.randperm(len(rows), generator=generator)[: int(empty.sum())]]
        centres = F.normalize(sums)
    return centres


def _responses(image: Tensor, filters: Filters) -> Tensor:
    """Rectified responses to contrast-normalised patches at stride 2: (1, K, H / 2, W / 2)."""
    padded = F.pad(image, (2, 2, 2, 2), mode="replicate")
    mean = F.avg_pool2d(padded.mean(1, keepdim=True), PATCH_PX, stride=2)
    square = F.avg_pool2d(padded.square().mean(1, keepdim=True), PATCH_PX, stride=2)
    deviation = ((square - mean.square()).clamp_min(0) + 0.02**2).sqrt()
    weight = filters.weight - filters.weight.mean(1, keepdim=True)
    raw = F.conv2d(padded, weight.view(-1, 3, PATCH_PX, PATCH_PX), stride=2) / deviation
    scale = filters.weight.norm(dim=1).mean()
    return ((raw - filters.offset[:, None, None]) / scale - filters.threshold).relu_()


def _gradients(luma: Tensor) -> Tensor:
    """Magnitudes in 8 unsigned directions, soft-binned: (1, 8, H, W)."""
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    magnitude = (dx.square() + dy.square()).sqrt()
    position = torch.atan2(dy, dx) / torch.pi * _BINS
    bins = [
        (1 - ((position - index + _BINS / 2) % _BINS - _BINS / 2).abs()).clamp_min(0) * magnitude
        for index in range(_BINS)
    ]
    return torch.cat(bins, 1)


def base_maps(image: Tensor, filters: Filters) -> Tensor:
    """Local measurements averaged over cells of BASE_PX: (1, C, H / 4, W / 4).

    Args:
        image: (1, 3, H, W) in [0, 1]; sides are multiples of 8.
        filters: from `learn_filters`.
    """
    colour = torch.einsum("oc,bchw->bohw", _RGB_TO_YCC, image)
    grid = (image.shape[-2] // BASE_PX, image.shape[-1] // BASE_PX)
    fine = _responses(image, filters)
    coarse = _responses(F.avg_pool2d(image, 2), filters)
    return torch.cat(
        [
            F.avg_pool2d(colour, BASE_PX),
            F.avg_pool2d(colour.square(), BASE_PX),
            F.avg_pool2d(_gradients(colour[:, :1]), BASE_PX),
            F.adaptive_avg_pool2d(fine, grid),
            F.adaptive_avg_pool2d(coarse, grid),
        ],
        1,
    )


def box_mean(maps: Tensor, cells: int) -> Tensor:
    """Mean over a window of an odd number of cells; beyond the border there is nothing, not zeros."""
    rows = F.avg_pool2d(maps, (cells, 1), stride=1, padding=(cells // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, cells), stride=1, padding=(0, cells // 2), count_include_pad=False)


def finish(pooled: Tensor) -> Tensor:
    """Pooled measurements made comparable: squares of colours to deviations, the rest to their square roots."""
    mean, square, rest = pooled[:, :3], pooled[:, 3:6], pooled[:, 6:]
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    return torch.cat([mean, deviation, rest.clamp_min(0).sqrt()], 1)


def positions(height: int, width: int, degree: int = 1) -> Tensor:
    """(1, 2 * degree, height, width): y and x in [-1, 1], and their powers."""
    y = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width)[None].expand(height, width)
    return torch.stack([axis**power for power in range(1, degree + 1) for axis in (y, x)])[None]


def save_filters(filters: Filters, path: Path) -> None:
    """Write filters as a torch file."""
    torch.save({"weight": filters.weight, "offset": filters.offset, "threshold": filters.threshold}, path)


def load_filters(path: Path) -> Filters:
    """Read what `save_filters` wrote."""
    return Filters(**torch.load(path))
