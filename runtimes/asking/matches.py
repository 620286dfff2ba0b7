"""From a cosine map to an answer: a threshold, a mask above it, and a box around the best cell."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.model.features import FeatureMap

_BINS = 128
# Neighbouring cells of a smooth map look alike whatever lies there, so a threshold below this says nothing.
_LOWEST = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """What a prototype finds in a map.

    Attributes:
        name: of the prototype.
        similarity: (h, w) float32, cosine to its nearest positive point; lower by as much as a negative one is nearer.
        mask: (h, w) bool, cells that are at least as similar as the threshold.
        threshold: that the mask was made with.
        score: similarity of the best cell.
        point: (x, y) of the best cell's centre in the frame [px].
        box: (left, top, right, bottom) of the part of the mask that holds the best cell, in the frame [px]; None where
            no cell reaches the threshold.
    """

    name: str
    similarity: NDArray[np.float32] = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    threshold: float
    score: float
    point: tuple[float, float]
    box: tuple[float, float, float, float] | None


def match_from_cosines(
    name: str,
    features: FeatureMap,
    positive: NDArray[np.float32],
    negative: NDArray[np.float32],
    threshold: float,
) -> Match:
    """Make the answer of one prototype.

    Args:
        name: of it.
        features: the map.
        positive: (n, h, w) cosines to its positive points.
        negative: (m, h, w) cosines to its negative points; m may be 0.
        threshold: of the mask.
    """
    near = positive.max(axis=0)
    is_nearest = np.ones(near.shape, bool)
    if len(negative):
        rival = negative.max(axis=0)
        is_nearest = rival <= near
        near = near - np.maximum(rival - near, 0)
    mask = (near >= threshold) & is_nearest
    ranked = near - 4 * ~is_nearest  # below all that are not
    row, column = divmod(int(ranked.argmax()), near.shape[1])
    return Match(
        name=name,
        similarity=near,
        mask=mask,
        threshold=threshold,
        score=float(near[row, column]),
        point=_centre(features, row, column),
        box=_box(features, mask, row, column) if mask[row, column] else None,
    )


def automatic_threshold(similarity: NDArray[np.float32]) -> float:
    """Where the cells that belong to a point begin: the upper of the two cuts that part the map best in three.

    Three classes (Otsu's criterion), because a picture has what was pointed at, what looks a little like it, and the
    rest: with two the cut lies between the latter ones, wherever the thing is small.

    Args:
        similarity: (h, w) cosines to the point, in the map that it was taken from.
    """
    low, high = float(similarity.min()), 1.0
    if high - low < 1e-6:
        return high
    counts, edges = np.histogram(similarity, bins=_BINS, range=(low, high))
    weight = np.concatenate([[0.0], np.cumsum(counts)])
    moment = np.concatenate([[0.0], np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)])

    def between(start: NDArray[np.intp], stop: NDArray[np.intp]) -> NDArray[np.floating]:
        """Weight times squared mean of the bins from start to stop; empty ones count nothing."""
        inside = weight[stop] - weight[start]
        return np.divide((moment[stop] - moment[start]) ** 2, inside, out=np.zeros_like(inside), where=inside > 0)

    first, second = np.triu_indices(_BINS + 1, k=1)
    ends = np.zeros_like(first), np.full_like(first, _BINS)
    spread = between(ends[0], first) + between(first, second) + between(second, ends[1])
    # Between two heaps every cut is as good; the middle is the safest.
    best = second[spread >= spread.max() * (1 - 1e-9)]
    return max(float(edges[best].mean()), _LOWEST)


def _box(features: FeatureMap, mask: NDArray[np.bool_], row: int, column: int) -> tuple[float, float, float, float]:
    """Of the connected cells around (row, column), cut to the frame."""
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1]
    rows, columns = np.nonzero(labels == labels[row, column])
    top, bottom = (_edge(features, 0, int(cell)) for cell in (rows.min(), rows.max() + 1))
    left, right = (_edge(features, 1, int(cell)) for cell in (columns.min(), columns.max() + 1))
    return left, top, right, bottom


def _edge(features: FeatureMap, axis: int, cell: int) -> float:
    """Where a cell begins, in the frame's pixels, counted from its edge and cut to it."""
    position = features.offset_px[axis] + cell * features.stride_px[axis]
    return float(min(max(position, 0.0), features.frame_size[axis]))


def _centre(features: FeatureMap, row: int, column: int) -> tuple[float, float]:
    """(x, y) of a cell's centre, in pixels as `FeatureMap.at` counts them, cut to the frame."""
    y, x = (
        min(
            max(features.offset_px[axis] + (cell + 0.5) * features.stride_px[axis] - 0.5, 0.0),
            features.frame_size[axis] - 1.0,
        )
        for axis, cell in ((0, row), (1, column))
    )
    return x, y
