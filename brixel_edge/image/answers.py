"""Pictures of a head's answers: masks in the classes' colours, depth from near (red) to far (blue), components.

The range of depth and components follows a stream slowly, so that one frame's outlier does not make the picture jump.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.model.head import LOG_DEPTH_LIMITS, classes_of
from brixel_edge.model.head_spec import HeadSpec

_LOW_PERCENT, _HIGH_PERCENT = 2.0, 98.0
_MOMENTUM = 0.1  # weight of a new frame in the range
_SHOWN = 3  # components: red, green, blue


class AnswerColours:
    """Turns answers of one head into pictures; give it those of a stream in order.

    Args:
        head: what the answers are.
    """

    def __init__(self, head: HeadSpec) -> None:
        self._head = head
        self._range: NDArray[np.float64] | None = None

    def __call__(self, answer: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Colour one answer.

        Args:
            answer: (h, w, K).

        Returns:
            (h, w, 3) uint8, R, G, B; black where there is no number.
        """
        self._follow(answer)
        return self._painted(answer)

    def fixed_on(self, answer: NDArray[np.floating]) -> Callable[[NDArray[np.floating]], NDArray[np.uint8]]:
        """The colours of one answer, for it and others alike."""
        self._range = None
        self._follow(answer)
        return self._painted

    @property
    def depth_range_m(self) -> tuple[float, float] | None:
        """(nearest, farthest) depth that has a colour of its own [m]; None before the first, and of other heads."""
        if self._head.kind != "depth" or self._range is None:
            return None
        near, far = np.exp(self._range[:, 0])
        return float(near), float(far)

    def _follow(self, answer: NDArray[np.floating]) -> None:
        if self._head.has_classes:
            return
        values = self._shown(answer).reshape(-1, min(_SHOWN, self._head.outputs))
        values = values[np.isfinite(values).all(axis=1)]
        if not len(values):
            return
        seen = np.percentile(values, (_LOW_PERCENT, _HIGH_PERCENT), axis=0)
        self._range = seen if self._range is None else (1 - _MOMENTUM) * self._range + _MOMENTUM * seen

    def _shown(self, answer: NDArray[np.floating]) -> NDArray[np.float64]:
        values = answer[..., :_SHOWN].astype(np.float64)
        return np.clip(values, *LOG_DEPTH_LIMITS) if self._head.kind == "depth" else values

    def _painted(self, answer: NDArray[np.floating]) -> NDArray[np.uint8]:
        is_known = np.isfinite(answer).all(axis=-1)
        if self._head.has_classes:
            palette = np.array(self._head.colours, np.uint8)
            picture = palette[classes_of(np.nan_to_num(answer))]
        else:
            picture = self._scaled(answer)
        picture[~is_known] = 0
        return picture

    def _scaled(self, answer: NDArray[np.floating]) -> NDArray[np.uint8]:
        if self._range is None:
            return np.zeros((*answer.shape[:2], 3), np.uint8)
        low, high = self._range
        shares = (np.nan_to_num(self._shown(answer)) - low) / np.maximum(high - low, 1e-6)
        levels = (255 * np.clip(shares, 0, 1)).astype(np.uint8)
        if self._head.kind == "depth":
            return np.ascontiguousarray(cv2.applyColorMap(255 - levels, cv2.COLORMAP_TURBO)[..., ::-1])
        picture = np.zeros((*answer.shape[:2], 3), np.uint8)
        picture[..., : levels.shape[2]] = levels
        return picture
