"""How close two maps of features are: per-cell cosines, raw and mean-centred, errors, and a probe's agreement.

Raw cosines flatter, because features of different places share a large common part (measured: 0.83 raw is 0.69
centred); agreement of a linear probe is what a user of the features would notice. Global signal-to-noise ratios hide
damage to few cells, so the worst cells are reported too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
MAX_CELLS = 4096  # of one frame: a 64x64 map whole, a larger one sampled, so that memory does not grow with the image
PROBE_CLASSES = 6
_PROBE_FIT_CELLS = 8192


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Comparison of one output over a set of frames.

    Attributes:
        mean: mean cosine of a cell.
        p01: cosine that 1 % of the cells fall below.
        minimum: of the worst cell.
        centred: mean cosine after the reference's mean feature is subtracted from both.
        rel_frobenius: norm of the difference by norm of the reference.
        sqnr_db: the same as a ratio of powers [dB].
        agreement: share of cells where a linear probe says the same.
    """

    mean: float
    p01: float
    minimum: float
    centred: float
    rel_frobenius: float
    sqnr_db: float
    agreement: float

    def to_json(self) -> dict[str, float]:
        """As plain JSON values."""
        return asdict(self)


def cells_of(output: Array, *, seed: int = 0, limit: int = MAX_CELLS) -> Array:
    """Feature vectors of one frame's output, (n, D), the same places for the same shape and seed.

    Args:
        output: (1, D, h, w) map, or (1, N, D) tokens; anything else counts as one vector.
        seed: of the places, where there are more than `limit`.
        limit: how many places at most.
    """
    if output.ndim == 4:
        rows = output[0].reshape(output.shape[1], -1).T
    else:
        rows = output[0] if output.ndim == 3 else output.reshape(1, -1)
    if len(rows) > limit:
        rows = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit])]
    return np.ascontiguousarray(rows, np.float32)


def cosines(reference: Array, candidate: Array) -> NDArray[np.float64]:
    """Cosine of every row, in double precision: differences of 1e-6 matter here."""
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.einsum("ij,ij->i", a, b) / np.maximum(norms, 1e-30)


def squared_error(reference: Sequence[Array], candidate: Sequence[Array]) -> float:
    """||candidate - reference||^2 / ||reference||^2 over all rows of all frames."""
    error = sum(float(((b.astype(np.float64) - a) ** 2).sum()) for a, b in zip(reference, candidate, strict=True))
    return error / max(sum(float((a.astype(np.float64) ** 2).sum()) for a in reference), 1e-30)


def mean_cosine(reference: Sequence[Array], candidate: Sequence[Array]) -> float:
    """Mean cosine of all rows of all frames."""
    return float(np.concatenate([cosines(a, b) for a, b in zip(reference, candidate, strict=True)]).mean())


def compare(reference: Sequence[Array], candidate: Sequence[Array], *, seed: int = 0) -> Fidelity:
    """Compare the cells of one output over frames; frame by frame, so that doubles are never held of all.

    Args:
        reference: (n, D) of every frame, of the float graph.
        candidate: the same cells of the other graph.
        seed: of the probe.
    """
    pairs = list(zip(reference, candidate, strict=True))
    cosine = np.concatenate([cosines(a, b) for a, b in pairs])
    centre = np.average([a.mean(0, dtype=np.float64) for a in reference], axis=0, weights=[len(a) for a in reference])
    error = squared_error(reference, candidate)
    return Fidelity(
        mean=float(cosine.mean()),
        p01=float(np.quantile(cosine, 0.01)),
        minimum=float(cosine.min()),
        centred=float(np.concatenate([cosines(a - centre, b - centre) for a, b in pairs]).mean()),
        rel_frobenius=float(np.sqrt(error)),
        sqnr_db=float(-10 * np.log10(max(error, 1e-30))),
        agreement=probe_agreement(reference, candidate, seed=seed),
    )


def probe_agreement(
    reference: Sequence[Array], candidate: Sequence[Array], *, seed: int = 0, classes: int = PROBE_CLASSES
) -> float:
    """Share of cells on which a ridge probe, fitted on the reference alone, gives both maps the same class.

    There are no labels, so the classes are clusters of the reference features: k-means, seeded.

    Args:
        reference: (n, D) of every frame.
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

    return float(np.concatenate([says(a) == says(b) for a, b in zip(reference, candidate, strict=True)]).mean())


def _clusters(points: Array, count: int, rng: np.random.Generator, rounds: int = 12) -> NDArray[np.int64]:
    centres = points[rng.permutation(len(points))[:count]]
    labels = np.zeros(len(points), np.int64)
    for _ in range(rounds):
        labels = ((centres**2).sum(1) - 2 * points @ centres.T).argmin(1)
        centres = np.stack(
            [points[labels == k].mean(0) if (labels == k).any() else centres[k] for k in range(len(centres))]
        )
    return labels
