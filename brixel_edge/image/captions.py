"""Lines of text for pictures, in one size and one look."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LINE_PX = 24
BACKGROUND = (24, 24, 24)
_TEXT, _NOTICE = (235, 235, 235), (80, 200, 255)  # BGR
_FONT, _SCALE, _MARGIN_PX, _BASE_PX = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 6, 17


def caption_strip(text: str, width: int, *, is_notice: bool = False) -> NDArray[np.uint8]:
    """One line on a dark strip; long text is written smaller.

    Args:
        text: ASCII, which is what OpenCV writes.
        width: of the strip [px].
        is_notice: what a viewer must know, in another colour.

    Returns:
        (24, width, 3) uint8 BGR.
    """
    strip = np.full((LINE_PX, width, 3), BACKGROUND, np.uint8)
    (needed, _), _ = cv2.getTextSize(text, _FONT, _SCALE, 1)
    scale = _SCALE * min(1.0, (width - 2 * _MARGIN_PX) / max(1, needed))
    colour = _NOTICE if is_notice else _TEXT
    cv2.putText(strip, text, (_MARGIN_PX, _BASE_PX), _FONT, scale, colour, 1, cv2.LINE_AA)
    return strip
