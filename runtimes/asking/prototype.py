"""One thing that a user pointed at: points on it, and points that are not it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError

LONGEST_NAME = 32  # fits a caption
# Of all prototypes together: what one matrix product a frame carries without being noticed.
MOST_POINTS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Prototype:
    """One thing.

    Attributes:
        name: what the user calls it.
        positive: (n, D) float32 of length 1: features of points on it.
        negative: (m, D) float32 of length 1: features of points that are not it.
        automatic: (n,) the threshold that each positive point would have, from the map it was taken from.
        chosen_threshold: set by the user; None leaves it to the points.
    """

    name: str
    positive: NDArray[np.float32] = field(repr=False)
    negative: NDArray[np.float32] = field(repr=False)
    automatic: NDArray[np.float32] = field(repr=False)
    chosen_threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > LONGEST_NAME or not self.name.isprintable():
            raise SpecError(f"name {self.name[:40]!r} is not 1 to {LONGEST_NAME} printable characters; choose another")
        if self.chosen_threshold is not None and not -1 <= self.chosen_threshold <= 1:
            raise SpecError(f"threshold {self.chosen_threshold} is no cosine; give one from -1 to 1, or None")

    @property
    def threshold(self) -> float:
        """The user's, else the mean of what the positive points would have."""
        if self.chosen_threshold is not None:
            return self.chosen_threshold
        return float(self.automatic.mean()) if len(self.automatic) else 1.0


def empty_prototype(name: str, dim: int) -> Prototype:
    """One without points.

    Raises:
        SpecError: no such name.
    """
    none = np.zeros((0, dim), np.float32)
    return Prototype(name=name, positive=none, negative=none, automatic=np.zeros(0, np.float32))
