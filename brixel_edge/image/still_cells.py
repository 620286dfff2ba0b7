"""What stands still in a scene, told from noise: each cell's mean since it last moved.

A cell that moves is shown as it is, at once; noise of a cell that stands still becomes a small part of itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# In levels of 255. ViT-Ti's last block on photographs with noise of 2.5 grey levels: standard deviations of 2 to 5 in
# the median cell and of 6 to 13 in the worst hundredth.
_MOVED_LEVELS = 45.0
# A smaller change counts when it lasts: its mean over some three frames.
_LASTING_LEVELS, _LEAD = 18.0, 0.35
# Weight of a new frame is one in so many: from a change on, and at the end. The frame of a change is as noisy as the
# others, and still its cells shall not tremble after it.
_FIRST, _MOST = 6, 20


class StillCells:
    """Calms the cells of one stream; give it the maps in order."""

    def __init__(self) -> None:
        self._mean: NDArray[np.floating] | None = None

    def __call__(self, projected: NDArray[np.floating], span: NDArray[np.floating]) -> NDArray[np.floating]:
        """Calm one map.

        Args:
            projected: (h, w, 3); cells without a number stay so.
            span: (3,), what 255 levels are.

        Returns:
            (h, w, 3).
        """
        if self._mean is None or self._mean.shape != projected.shape:
            self._mean, self._lead = projected, np.zeros_like(projected)
            self._count = np.full((*projected.shape[:2], 1), _FIRST)
            return self._mean
        levels = np.float32(255) / np.maximum(span, np.float32(1e-12)).astype(np.float32)
        with np.errstate(invalid="ignore"):  # Inf in a map that is to be shown all the same
            change = (projected - self._mean) * levels
        lead = self._lead + np.float32(_LEAD) * (change - self._lead)
        # A change that is no number has moved.
        moved = ~(np.abs(change).max(axis=2, keepdims=True) <= _MOVED_LEVELS)
        lasts = np.abs(lead).max(axis=2, keepdims=True) > _LASTING_LEVELS
        self._count = np.where(moved | lasts, _FIRST, np.minimum(self._count + 1, _MOST))
        step = np.where(lasts, lead, change / self._count.astype(np.float32)) / levels
        self._mean = np.where(moved, projected, self._mean + step)
        self._lead = np.where(moved | lasts, np.float32(0), lead)
        return self._mean
