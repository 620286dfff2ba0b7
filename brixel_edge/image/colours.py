"""Colours for feature maps by their first three principal components: fixed, or for a stream.

A PCA of each frame by itself flickers: components swap, change sign, and one outlier dims the rest. Here the directions
are a model's, found once and used by every process, so that a colour means the same today and tomorrow. Only the range
that maps to 0..255 follows the scene, within a second, and cells that stand still are shown without their noise.
Nothing is fetched or kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.image.still_cells import StillCells

COMPONENTS = 3
_SAMPLED_CELLS = 1024
_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0
# Two seconds after a cut the range is off by a thousandth of the way.
_RANGE_S = 0.3
# Of frames that say nothing about their time.
_FRAME_S = 1 / 30
# A scene of which the components show little is not stretched to noise: parts of the range that the basis was made of.
_SMALLEST_SHARE = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class ColourBasis:
    """What the colours of a model's features are.

    Attributes:
        mean: (D,) float32.
        directions: (D, 3) float32, of red, green and blue.
        limits: (2, 3) float32, what becomes 0 and 255 in the maps that it was made of.
    """

    mean: NDArray[np.floating] = field(repr=False)
    directions: NDArray[np.floating] = field(repr=False)
    limits: NDArray[np.floating]

    def __post_init__(self) -> None:
        shapes = self.mean.shape, self.directions.shape, self.limits.shape
        if shapes != ((len(self.mean),), (len(self.mean), COMPONENTS), (2, COMPONENTS)):
            raise SpecError(f"shapes {shapes} are not those of a mean (D,), directions (D, 3) and limits (2, 3)")
        if not all(np.isfinite(part).all() for part in (self.mean, self.directions, self.limits)):
            raise SpecError("a colour basis must be finite")

    @property
    def is_flat(self) -> bool:
        """Whether the maps that it was made of had no contrast, so that its directions mean nothing."""
        return bool((np.ptp(self.limits, axis=0) <= self.smallest_span()).any())

    def smallest_span(self) -> float:
        """A map without contrast (a covered lens) is dark, not amplified noise."""
        return float(1e-3 * (np.abs(self.mean).max() + 1e-3))

    def project(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """(..., D) -> (..., 3)."""
        with np.errstate(invalid="ignore"):  # Inf in a map that is to be shown all the same
            return values.astype(np.float32, copy=False) @ self.directions - self.mean @ self.directions

    def levels(self, projected: NDArray[np.floating], limits: NDArray[np.floating]) -> NDArray[np.floating]:
        """(..., 3) -> 0..255, black where there is no number."""
        low, high = limits
        span = np.maximum(high - low, self.smallest_span())
        with np.errstate(invalid="ignore"):
            return np.clip(np.nan_to_num((projected - low) * (255 / span)), 0, 255)


def basis_from_maps(maps: Sequence[NDArray[np.floating]]) -> ColourBasis:
    """The directions that show most of some maps.

    Args:
        maps: (h, w, D) each.
    """
    cells = np.concatenate([_sample(values.reshape(-1, values.shape[-1])) for values in maps])
    finite = cells[np.isfinite(cells).all(axis=1)]
    return _basis_of_cells(finite if len(finite) else np.zeros_like(cells[:1]))


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
    basis = _basis_of_cells(cells)
    return lambda values: basis.levels(basis.project(values), basis.limits).astype(np.uint8)


class PcaColours:
    """Turns feature maps of one stream into pictures; give it the frames in order.

    Args:
        basis: of the model; None takes that of the first map with contrast.
        is_steady: False where maps have little in common with the one before, as those of a folder of images.
    """

    def __init__(self, basis: ColourBasis | None = None, *, is_steady: bool = True) -> None:
        self._basis, self._is_steady = basis, is_steady
        self._limits: NDArray[np.floating] | None = None
        self._still = StillCells()
        self._last_s: float | None = None

    def __call__(self, values: NDArray[np.floating], t_s: float | None = None) -> NDArray[np.uint8]:
        """Colour one map.

        Args:
            values: (h, w, D); all maps of a stream have the same D.
            t_s: when it was taken, on any clock [s]; None takes a thirtieth of a second after the one before.

        Returns:
            (h, w, 3) uint8: the first three components as red, green and blue.

        Raises:
            SpecError: no map, or another D than the basis.
        """
        if values.ndim != 3 or (self._basis is not None and values.shape[2] != len(self._basis.mean)):
            raise SpecError(f"feature map {values.shape} is not (h, w, D) with the D of the maps before it")
        basis = self._basis or basis_from_maps([values])
        if self._basis is None and not basis.is_flat:
            self._basis, self._limits, self._still = basis, None, StillCells()
        projected = basis.project(values)
        if self._is_steady:
            projected = self._still(projected, np.ptp(basis.limits if self._limits is None else self._limits, axis=0))
        self._follow(basis, _percentiles(_sample(projected.reshape(-1, COMPONENTS))), t_s)
        assert self._limits is not None
        return basis.levels(projected, self._limits).astype(np.uint8)

    def _follow(self, basis: ColourBasis, seen: NDArray[np.floating], t_s: float | None) -> None:
        """Move the range towards what is seen."""
        middle, half = seen.mean(axis=0), np.ptp(seen, axis=0) / 2
        half = np.maximum(half, _SMALLEST_SHARE / 2 * np.ptp(basis.limits, axis=0))
        seen = np.stack([middle - half, middle + half])
        passed_s = t_s - self._last_s if t_s is not None and self._last_s is not None else _FRAME_S
        self._last_s = t_s
        if self._limits is None or not self._is_steady:
            self._limits = seen
        else:
            weight = 1 - math.exp(-(passed_s if passed_s > 0 else _FRAME_S) / _RANGE_S)
            self._limits = self._limits + weight * (seen - self._limits)


def _sample(cells: NDArray[np.floating]) -> NDArray[np.floating]:
    """At most some 1000 cells, evenly over the map; an odd step, so that columns are not skipped in step with rows."""
    step = max(1, len(cells) // _SAMPLED_CELLS) | 1
    return cells[::step].astype(np.float32)


def _basis_of_cells(cells: NDArray[np.floating]) -> ColourBasis:
    """From cells (n, D)."""
    mean, covariance = _moments(cells)
    directions = _leading(covariance)
    return ColourBasis(mean=mean, directions=directions, limits=_percentiles((cells - mean) @ directions))


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
    """(2, 3), what becomes 0 and 255; of nothing, nothing."""
    projected = projected[np.isfinite(projected).all(axis=1)]
    if not len(projected):
        return np.zeros((2, COMPONENTS), np.float32)
    return np.percentile(projected, (_LOW_PERCENT, _HIGH_PERCENT), axis=0).astype(np.float32)
