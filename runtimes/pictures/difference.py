"""A picture of where an engine differs: the image, both maps in the same colours, and the error of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.image.answers import AnswerColours
from brixel_edge.image.captions import BACKGROUND, caption_strip
from brixel_edge.image.colours import fixed_colours
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.proof.parity import cell_cosines

TILE_PX = 256
_HEADER = "image | PyTorch's features (PCA) | this engine's, same colours | 1 - cosine, 1e-7 blue to 1e-1 red"
_ANSWER_HEADER = "image | PyTorch's answer | this engine's | red: another class, or off by 10 % of the depth or spread"
_HEADER_PX = 860  # wide enough for the header in its full size
# 1 - cosine from 1e-7, what fp32 differs by, to 1e-1, at which maps are visibly others.
_LOW_EXPONENT, _HIGH_EXPONENT = -7.0, -1.0
_LARGE_ERROR = 0.1  # of an answer


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row of the picture.

    Attributes:
        label: the engine and its verdict.
        image_bgr: (H, W, 3) uint8.
        reference: (1, D, h, w).
        candidate: (1, D, h, w).
        head: the maps are its answers, (1, K, h, w); None for features.
    """

    label: str
    image_bgr: NDArray[np.uint8] = field(repr=False)
    reference: NDArray[np.floating] = field(repr=False)
    candidate: NDArray[np.floating] = field(repr=False)
    head: HeadSpec | None = None


def difference_map(rows: Sequence[Comparison], notice: str | None = None) -> NDArray[np.uint8]:
    """Paint comparisons under each other: image, reference, candidate, error.

    Args:
        rows: at least one.
        notice: what a viewer must know, for instance that the weights are untrained.

    Returns:
        BGR picture.
    """
    panels = [_panel(row) for row in rows]
    width = max(_HEADER_PX, *(panel.shape[1] for panel in panels))
    parts = [caption_strip(_HEADER if rows[0].head is None else _ANSWER_HEADER, width)]
    if notice is not None:
        parts.append(caption_strip(notice, width, is_notice=True))
    for row, panel in zip(rows, panels, strict=True):
        parts += [_widened(panel, width), caption_strip(row.label, width)]
    return np.vstack(parts)


def _panel(row: Comparison) -> NDArray[np.uint8]:
    """(256, 4 tiles, 3) BGR."""
    height, width = row.image_bgr.shape[:2]
    size = (max(1, round(TILE_PX * width / height)), TILE_PX)
    reference, candidate = (features[0].transpose(1, 2, 0) for features in (row.reference, row.candidate))
    colours = fixed_colours([reference]) if row.head is None else AnswerColours(row.head).fixed_on(reference)
    maps = [colours(features)[..., ::-1] for features in (reference, candidate)]
    tiles = [row.image_bgr, *maps, error_colours(row)]
    return np.hstack([np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_NEAREST), np.uint8) for tile in tiles])


def error_colours(row: Comparison) -> NDArray[np.uint8]:
    """The error of every cell, (h, w, 3) BGR: of features on a logarithmic scale; what is no number is white."""
    errors = errors_of(row.reference, row.candidate, row.head)
    if row.head is None:
        exponents = np.log10(np.clip(errors, 10**_LOW_EXPONENT, 1.0))
        scaled = np.clip((exponents - _LOW_EXPONENT) / (_HIGH_EXPONENT - _LOW_EXPONENT), 0.0, 1.0)
    else:
        scaled = np.clip(errors / _LARGE_ERROR, 0.0, 1.0)
    levels = (np.nan_to_num(scaled) * 255).astype(np.uint8)
    painted = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), np.uint8)
    painted[~np.isfinite(row.candidate[0]).all(axis=0)] = 255
    return painted


def errors_of(
    reference: NDArray[np.floating], candidate: NDArray[np.floating], head: HeadSpec | None
) -> NDArray[np.float64]:
    """(h, w): how wrong every cell is; what is no number counts as 1.

    Args:
        reference: (1, channels, h, w).
        candidate: the same shape.
        head: whose answers they are: 1 for another class, part of the depth, or of the components' spread; None for
            features: 1 - cosine.
    """
    h, w = reference.shape[2:]
    if head is None:
        errors = 1.0 - cell_cosines(reference, candidate).reshape(h, w)
    else:
        a, b = reference[0].astype(np.float64), candidate[0].astype(np.float64)
        if head.has_classes:
            errors = np.where(np.isfinite(b).all(axis=0), a.argmax(0) != b.argmax(0), 1.0)
        elif head.kind == "depth":
            errors = np.abs(np.expm1((b - a)[0]))
        else:
            errors = np.linalg.norm(b - a, axis=0) / max(float(np.linalg.norm(a.std((1, 2)))), 1e-30)
    return np.nan_to_num(errors, nan=1.0, posinf=1.0)


def _widened(part: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    missing = np.full((part.shape[0], width - part.shape[1], 3), BACKGROUND, np.uint8)
    return np.hstack([part, missing])


def write_difference_map(path: Path, rows: Sequence[Comparison], notice: str | None = None) -> None:
    """Paint and save it.

    Raises:
        SpecError: it cannot be written there.
    """
    if not cv2.imwrite(str(path), difference_map(rows, notice)):
        raise SpecError(f"the difference map cannot be written to {path}; name another place with --map PNG")
