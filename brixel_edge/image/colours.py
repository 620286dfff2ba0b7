"""Colours for feature maps by their first three principal components: fixed, or for a stream.

A PCA of each frame by itself flickers: components swap, change sign, and one outlier dims the rest. `PcaColours` stays
put from frame to frame: mean and covariance are running averages over a sample of cells, the new basis is turned onto
the old one (orthogonal Procrustes) before it takes over, and the range that maps to 0..255 is a running average of
percentiles. Nothing is fetched or kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError

COMPONENTS = 3
# Weight of a new frame in the running averages, and how often the basis is looked at again.
MOMENTUM, REFRESH_EVERY = 0.1, 5
_SAMPLED_CELLS = 1024
_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0
# What is shown follows what was found by this part of the way each frame: a new object must not make the picture jump.
_FOLLOW = 0.2
# Steps of subspace iteration from the last basis; the covariance moves little between refreshes.
_STEPS = 2


def fixed_colours(
    maps: Sequence[NDArray[np.floating]],
) -> Callable[[NDArray[np.floating]], NDArray[np.uint8]]:
    """The colours that show most of some maps, for those and others alike.

    Args:
        maps: (h, w, D) each.

    Returns:
        a function from a map (h, w, D) to (h, w, 3) uint8: the first three components as red, green and blue; black
        where there is no number.
    """
    cells = np.concatenate([values.reshape(-1, values.shape[-1]) for values in maps]).astype(np.float32)
    mean, covariance = _moments(cells)
    basis = _leading(covariance)
    projection, offset = _affine(mean, basis, _percentiles((cells - mean) @ basis))
    return lambda values: _painted(values, projection, offset)


class PcaColours:
    """Turns feature maps of one stream into pictures; give it the frames in order.

    Args:
        momentum: weight of a new frame in the running averages, in (0, 1]; the first frames count more.
        refresh_every: frames between two looks at the basis.
    """

    def __init__(self, momentum: float = MOMENTUM, refresh_every: int = REFRESH_EVERY) -> None:
        if not 0 < momentum <= 1 or refresh_every < 1:
            raise SpecError(f"momentum {momentum} must be in (0, 1] and refresh_every {refresh_every} at least 1")
        self._momentum, self._refresh_every = momentum, refresh_every
        self._frames = self._refreshes = 0
        self._mean = self._covariance = self._basis = self._range = np.empty(0, np.float32)
        self._projection = self._offset = np.empty(0, np.float32)

    def __call__(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Colour one map.

        Args:
            values: (h, w, D); all maps of a stream have the same D.

        Returns:
            (h, w, 3) uint8: the first three components as red, green and blue.

        Raises:
            SpecError: no map, or another D than before.
        """
        if values.ndim != 3 or (self._frames and values.shape[2] != len(self._mean)):
            raise SpecError(f"feature map {values.shape} is not (h, w, D) with the D of the maps before it")
        if self._frames % self._refresh_every == 0:
            self._refresh(_sample(values.reshape(-1, values.shape[2])))
        self._follow()
        self._frames += 1
        return _painted(values, self._projection, self._offset)

    def _refresh(self, cells: NDArray[np.floating]) -> None:
        """Fold a sample of cells (n, D) into the averages and follow them with the basis."""
        self._refreshes += 1
        # The plain mean of all refreshes until the momentum is reached: a dark first frame must not linger.
        weight = max(self._momentum, 1 / self._refreshes)
        mean, covariance = _moments(cells)
        if self._refreshes == 1:
            self._mean, self._covariance, self._range = mean, covariance, np.empty(0, np.float32)
        else:
            shift = (mean - self._mean)[:, None]
            self._covariance = (1 - weight) * (self._covariance + weight * shift @ shift.T) + weight * covariance
            self._mean = (1 - weight) * self._mean + weight * mean
        self._basis = _turned_onto(self._new_basis(), self._basis) if self._basis.size else _leading(self._covariance)
        self._follow_range((cells - self._mean) @ self._basis, weight)

    def _new_basis(self) -> NDArray[np.floating]:
        """(D, 3), the leading eigenvectors of the covariance as they are now, from the last basis on."""
        basis = self._basis
        for _ in range(_STEPS):
            basis = np.linalg.qr(self._covariance @ basis)[0]
        return basis

    def _follow_range(self, projected: NDArray[np.floating], weight: float) -> None:
        seen = _percentiles(projected)
        self._range = seen if not self._range.size else (1 - weight) * self._range + weight * seen

    def _follow(self) -> None:
        """Move the affine map from features to levels, (D, 3) and (3,), towards mean, basis and range."""
        projection, offset = _affine(self._mean, self._basis, self._range)
        if not self._frames:
            self._projection, self._offset = projection, offset
            return
        self._projection = self._projection + _FOLLOW * (projection - self._projection)
        self._offset = self._offset + _FOLLOW * (offset - self._offset)


def _sample(cells: NDArray[np.floating]) -> NDArray[np.floating]:
    """At most some 1000 cells, evenly over the map; an odd step, so that columns are not skipped in step with rows."""
    step = max(1, len(cells) // _SAMPLED_CELLS) | 1
    return cells[::step].astype(np.float32)


def _moments(cells: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Mean (D,) and covariance (D, D) of cells (n, D)."""
    mean = cells.mean(axis=0)
    centred = cells - mean
    return mean, centred.T @ centred / len(cells)


def _leading(covariance: NDArray[np.floating]) -> NDArray[np.floating]:
    """(D, 3), its leading eigenvectors, largest first."""
    _, vectors = np.linalg.eigh(covariance)
    basis = vectors[:, ::-1][:, :COMPONENTS].astype(np.float32)
    # Signs of eigenvectors are arbitrary; make them a rule, so that two runs have the same colours.
    return basis * np.where(basis.sum(axis=0) < 0, -1, 1).astype(np.float32)


def _percentiles(projected: NDArray[np.floating]) -> NDArray[np.floating]:
    """(2, 3), what becomes 0 and 255."""
    return np.percentile(projected, (_LOW_PERCENT, _HIGH_PERCENT), axis=0).astype(np.float32)


def _affine(
    mean: NDArray[np.floating], basis: NDArray[np.floating], limits: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The map from features to levels, (D, 3) and (3,)."""
    low, high = limits
    # A map without contrast (a covered lens) is dark, not amplified noise.
    span = np.maximum(high - low, 1e-3 * (np.abs(mean).max() + 1e-3))
    projection = basis * (255 / span)
    return projection, -mean @ projection - low * (255 / span)


def _painted(
    values: NDArray[np.floating], projection: NDArray[np.floating], offset: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """(h, w, D) -> (h, w, 3)."""
    with np.errstate(invalid="ignore"):  # Inf in a map that is to be shown all the same
        levels = values.astype(np.float32, copy=False) @ projection + offset
    return np.clip(np.nan_to_num(levels), 0, 255).astype(np.uint8)


def _turned_onto(basis: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.floating]:
    """The basis of the same subspace that lies closest to `target` (orthogonal Procrustes)."""
    left, _, right = np.linalg.svd(basis.T @ target)
    return basis @ (left @ right)
