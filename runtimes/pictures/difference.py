"""A picture of where an engine differs: the image, both maps in the same colours, and the error of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.proof.parity import cell_cosines

TILE_PX = 256
_LINE_PX = 24
_TEXT, _BACKGROUND = (235, 235, 235), (24, 24, 24)
# 1 - cosine from 1e-7, what fp32 differs by, to 1e-1, at which maps are visibly others.
_LOW_EXPONENT, _HIGH_EXPONENT = -7.0, -1.0
_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row of the picture.

    Attributes:
        label: the engine and its verdict.
        image_bgr: (H, W, 3) uint8.
        reference: (1, D, h, w).
        candidate: (1, D, h, w).
    """

    label: str
    image_bgr: NDArray[np.uint8] = field(repr=False)
    reference: NDArray[np.floating] = field(repr=False)
    candidate: NDArray[np.floating] = field(repr=False)


def difference_map(rows: Sequence[Comparison], notice: str | None = None) -> NDArray[np.uint8]:
    """Paint comparisons under each other: image, reference, candidate, error.

    Args:
        rows: at least one.
        notice: what a viewer must know, for instance that the weights are untrained.

    Returns:
        BGR picture.
    """
    header = _line("image | PyTorch's features (PCA) | this engine's, same colours | 1 - cosine, 1e-7 blue to 1e-1 red")
    parts = [header] if notice is None else [header, _line(notice)]
    for row in rows:
        height, width = row.image_bgr.shape[:2]
        size = (max(1, round(TILE_PX * width / height)), TILE_PX)
        colours = _Colours(row.reference)
        tiles = [row.image_bgr, colours(row.reference), colours(row.candidate), error_colours(row)]
        parts += [
            np.hstack([cv2.resize(tile, size, interpolation=cv2.INTER_NEAREST) for tile in tiles]),
            _line(row.label),
        ]
    width = max(part.shape[1] for part in parts)
    return np.vstack([_widened(part, width) for part in parts])


def error_colours(row: Comparison) -> NDArray[np.uint8]:
    """1 - cosine of every cell on a logarithmic scale, (h, w, 3) BGR; what is no number is white."""
    h, w = row.reference.shape[2:]
    errors = 1.0 - cell_cosines(row.reference, row.candidate)
    exponents = np.log10(np.clip(errors, 10**_LOW_EXPONENT, 1.0))
    scaled = np.clip((exponents - _LOW_EXPONENT) / (_HIGH_EXPONENT - _LOW_EXPONENT), 0.0, 1.0)
    levels = (scaled * 255).astype(np.uint8).reshape(h, w)
    painted = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), np.uint8)
    painted[~np.isfinite(row.candidate[0]).all(axis=0)] = 255
    return painted


class _Colours:
    """The first three principal components of one map as blue, green and red, for this map and others alike."""

    def __init__(self, features: NDArray[np.floating]) -> None:
        cells = _cells(features)
        self._mean = cells.mean(0)
        _, vectors = np.linalg.eigh(np.cov((cells - self._mean).T))
        self._basis = vectors[:, ::-1][:, :3]
        projected = (cells - self._mean) @ self._basis
        self._low, self._high = np.percentile(projected, (_LOW_PERCENT, _HIGH_PERCENT), axis=0)

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8."""
        projected = (_cells(features) - self._mean) @ self._basis
        scaled = (projected - self._low) / np.maximum(self._high - self._low, 1e-12)
        return (np.nan_to_num(np.clip(scaled, 0.0, 1.0)) * 255).astype(np.uint8).reshape(*features.shape[2:], 3)


def _cells(features: NDArray[np.floating]) -> NDArray[np.float64]:
    return features[0].reshape(features.shape[1], -1).T.astype(np.float64)


def _line(text: str) -> NDArray[np.uint8]:
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
    strip = np.full((_LINE_PX, width + 12, 3), _BACKGROUND, np.uint8)
    return np.asarray(
        cv2.putText(strip, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _TEXT, 1, cv2.LINE_AA), np.uint8
    )


def _widened(part: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    missing = np.full((part.shape[0], width - part.shape[1], 3), _BACKGROUND, np.uint8)
    return np.hstack([part, missing])
