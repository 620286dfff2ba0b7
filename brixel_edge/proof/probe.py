"""What a user of the features would notice: whether a linear probe says the same on two maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brixel_edge.proof.parity import cells_of

Array = NDArray[np.float32]
MAX_CELLS = 4096  # of one image: a 64x64 map whole, a larger one sampled, so that memory does not grow with the image
PROBE_CLASSES = 6
_PROBE_FIT_CELLS = 8192


def sampled_cells(output: Array) -> Array:
    """Feature vectors of one image's output, `MAX_CELLS` at most, (n, D); of one shape always the same places."""
    rows = cells_of(output)
    if len(rows) > MAX_CELLS:
        rows = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:MAX_CELLS])]
    return np.ascontiguousarray(rows, np.float32)


def probe_agreement(
    reference: Sequence[Array], candidate: Sequence[Array], *, seed: int = 0, classes: int = PROBE_CLASSES
) -> float:
    """Share of all cells on which the probe of `probe_agreements` says the same."""
    shares = probe_agreements(reference, candidate, seed=seed, classes=classes)
    return float(np.average(shares, weights=[len(cells) for cells in reference]))


def probe_agreements(
    reference: Sequence[Array], candidate: Sequence[Array], *, seed: int = 0, classes: int = PROBE_CLASSES
) -> list[float]:
    """By image: share of cells on which a ridge probe, fitted on the reference alone, gives both maps the same class.

    There are no labels, so the classes are clusters of the reference features: k-means, seeded.

    Args:
        reference: (n, D) of every image.
        candidate: the same cells.
        seed: of the fitted cells and of the clusters' start.
        classes: number of clusters.
    """
    rng = np.random.default_rng(seed)
    share = max(1, -(-_PROBE_FIT_CELLS // len(reference)))
    cells = np.concatenate([a[np.sort(rng.permutation(len(a))[:share])] for a in reference])
    mean, spread = cells.mean(0), cells.std(0) + 1e-6
    fit = (cells - mean) / spread
    labels = _clusters(fit, classes, rng)
    bordered = np.concatenate([fit, np.ones((len(fit), 1), np.float32)], axis=1)
    gram = bordered.T @ bordered + 1e-2 * len(fit) * np.eye(bordered.shape[1], dtype=np.float32)
    weight = np.linalg.solve(gram, bordered.T @ np.eye(classes, dtype=np.float32)[labels])

    def says(features: Array) -> NDArray[np.int64]:
        return (((features - mean) / spread) @ weight[:-1] + weight[-1]).argmax(1)

    return [float((says(a) == says(b)).mean()) for a, b in zip(reference, candidate, strict=True)]


def _clusters(points: Array, count: int, rng: np.random.Generator, rounds: int = 12) -> NDArray[np.int64]:
    centres = points[rng.permutation(len(points))[:count]]
    labels = np.zeros(len(points), np.int64)
    for _ in range(rounds):
        labels = ((centres**2).sum(1) - 2 * points @ centres.T).argmin(1)
        centres = np.stack(
            [points[labels == k].mean(0) if (labels == k).any() else centres[k] for k in range(len(centres))]
        )
    return labels
