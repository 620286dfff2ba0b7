"""Windows of the photographs for training: many zooms, many grid sizes, as many tokens a batch."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nano.photographs import Pyramid

# (height, width) in tokens and how often; the last is the native grid of CamVid's frames.
GRIDS = ((8, 8), (8, 11), (12, 12), (12, 16), (16, 16), (16, 22), (23, 30), (32, 44))
LOWEST = 2  # level that is drawn: descriptors of the level's own resolution are those of the one two before
FINER_TOKENS = 352  # of a window, at most, where the teacher sees four times as many
ODDS = (0.10, 0.20, 0.12, 0.12, 0.12, 0.12, 0.07, 0.15)


@dataclass(frozen=True)
class Batch:
    """Windows of one grid size.

    Attributes:
        images: (B, H, W, 3) bytes, augmented.
        finer: (B, 2 H, 2 W, 3) bytes, the same windows two levels finer, plain; None where not asked for.
        photo: (B,), which photograph.
        level: (B,), which level of it.
        top, left: (B,), the window's corner on the level, in half tokens; even.
        height: (B,), of the level [half tokens].
        flipped: (B,), mirrored left to right.
    """

    images: Tensor
    finer: Tensor | None
    photo: NDArray[np.int64]
    level: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    flipped: NDArray[np.bool_]

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) in tokens."""
        return self.images.shape[1] // 16, self.images.shape[2] // 16


class Windows:
    """Draws batches.

    Args:
        pyramid: the photographs.
        tokens: of a batch, at most.
        finer: also give the windows at twice the resolution; only levels that have one are drawn.
        flips: mirror half of the windows.
        grids: only these, alike often.
        augmented: change exposure, colours and sharpness a little.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        tokens: int,
        *,
        finer: bool = False,
        flips: bool = False,
        grids: tuple[tuple[int, int], ...] | None = None,
        augmented: bool = True,
    ) -> None:
        self._pyramid = pyramid
        self._tokens = tokens
        self._finer = finer
        self._flips = flips
        self._augmented = augmented
        self._grids = grids or GRIDS
        self._levels = len(pyramid.levels[0]) - (2 if finer else 0)
        odds = ODDS if grids is None else np.ones(len(grids))
        fits = [self._fits(grid) and not (finer and grid[0] * grid[1] > FINER_TOKENS) for grid in self._grids]
        self._odds = np.where(fits, odds, 0) / np.where(fits, odds, 0).sum()

    def _fits(self, grid: tuple[int, int]) -> bool:
        tops = [levels[self._levels - 1].shape for levels in self._pyramid.levels]
        return any(top[0] >= 16 * grid[0] and top[1] >= 16 * grid[1] for top in tops)

    def draw(self, rng: np.random.Generator) -> Batch:
        """One batch."""
        grid = self._grids[rng.choice(len(self._grids), p=self._odds)]
        size = max(self._tokens // (grid[0] * grid[1]), 1)
        drawn = [self._one(rng, grid) for _ in range(size)]
        images, finer, *places = zip(*drawn, strict=True)
        return Batch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.stack(finer)) if self._finer else None,
            *(np.array(place) for place in places),
        )

    def _one(self, rng: np.random.Generator, grid: tuple[int, int]) -> tuple:
        tall, wide = grid[0] * 16, grid[1] * 16
        while True:
            photo = int(rng.integers(len(self._pyramid)))
            levels = self._pyramid.levels[photo]
            fitting = [
                k for k in range(LOWEST, self._levels) if levels[k].shape[0] >= tall and levels[k].shape[1] >= wide
            ]
            if fitting:
                break
        level = int(rng.choice(fitting))
        image = levels[level]
        top = 2 * int(rng.integers((image.shape[0] - tall) // 16 + 1))
        left = 2 * int(rng.integers((image.shape[1] - wide) // 16 + 1))
        window = image[top * 8 : top * 8 + tall, left * 8 : left * 8 + wide]
        flipped = bool(self._flips and rng.random() < 0.5)
        finer = None
        if self._finer:
            finer = levels[level + 2][top * 16 : top * 16 + 2 * tall, left * 16 : left * 16 + 2 * wide]
        if flipped:
            window = window[:, ::-1]
            finer = None if finer is None else np.ascontiguousarray(finer[:, ::-1])
        window = augment(window, rng) if self._augmented else window.copy()
        return window, finer, photo, level, top, left, image.shape[0] // 8, flipped


def augment(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light changes of exposure, contrast, colour balance, saturation and sharpness; colours stay recognisable."""
    pixels = image.astype(np.float32)
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.04, 3)).astype(np.float32)
    grey = pixels.mean(2, keepdims=True)
    pixels = grey + (pixels - grey) * np.float32(np.exp(rng.normal(0, 0.2)))
    middle = pixels.mean()
    pixels = (middle + (pixels - middle) * np.float32(np.exp(rng.normal(0, 0.12)))) * gain
    if rng.random() < 0.3:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.2:
        pixels = pixels + rng.normal(0, rng.uniform(1, 6), pixels.shape).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def block_mask(rng: np.random.Generator, count: int, grid: tuple[int, int], share: float, odds: float) -> Tensor:
    """(count, h, w) booleans: smooth random regions of about `share` of a window, in `odds` of the windows."""
    noise = rng.normal(size=(count, max(grid[0] // 3, 2), max(grid[1] // 3, 2))).astype(np.float32)
    smooth = np.stack([cv2.resize(one, (grid[1], grid[0]), interpolation=cv2.INTER_CUBIC) for one in noise])
    smooth += 0.3 * rng.normal(size=smooth.shape)
    shares = share * rng.uniform(0.6, 1.4, count) * (rng.random(count) < odds)
    limits = np.array(
        [np.quantile(one, 1 - part) if part > 0 else np.inf for one, part in zip(smooth, shares, strict=True)]
    )
    return torch.from_numpy(smooth > limits[:, None, None])
