"""The legend under a mask: a swatch and a name for each class, in as many rows for every frame of a stream."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.image.captions import BACKGROUND, LINE_PX
from brixel_edge.model.head import classes_of
from brixel_edge.model.head_spec import HeadSpec

MAX_ROWS = 2
_FONT, _SCALE, _BASE_PX = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 16
_SWATCH_PX, _GAP_PX, _TEXT = 12, 6, (235, 235, 235)


def legend(head: HeadSpec, answer: NDArray[np.floating], width: int) -> NDArray[np.uint8]:
    """Paint it.

    All classes in their order where they fit into two rows, else those that are in the picture, the largest first, as
    far as they fit.

    Args:
        head: with classes.
        answer: (h, w, K) of the frame.
        width: of the legend [px].

    Returns:
        (24 or 48, width, 3) uint8 BGR; the height depends on head and width alone.
    """
    everything = _rows(head, range(head.outputs), width)
    rows = everything
    if len(everything) > MAX_ROWS:
        sizes = np.bincount(classes_of(np.nan_to_num(answer)).ravel(), minlength=head.outputs)
        present = [int(number) for number in np.argsort(-sizes, kind="stable") if sizes[number]]
        rows = _rows(head, present, width)[:MAX_ROWS]
    strip = np.full((min(len(everything), MAX_ROWS) * LINE_PX, width, 3), BACKGROUND, np.uint8)
    for row, entries in enumerate(rows):
        for number, left in entries:
            top = row * LINE_PX + (LINE_PX - _SWATCH_PX) // 2
            red, green, blue = head.colours[number]
            strip[top : top + _SWATCH_PX, left : left + _SWATCH_PX] = (blue, green, red)
            place = (left + _SWATCH_PX + _GAP_PX, row * LINE_PX + _BASE_PX)
            cv2.putText(strip, head.classes[number], place, _FONT, _SCALE, _TEXT, 1, cv2.LINE_AA)
    return strip


def _rows(head: HeadSpec, numbers: range | list[int], width: int) -> list[list[tuple[int, int]]]:
    """Numbers of classes with the left edges of their swatches [px], row by row."""
    rows: list[list[tuple[int, int]]] = [[]]
    left = _GAP_PX
    for number in numbers:
        (text_px, _), _ = cv2.getTextSize(head.classes[number], _FONT, _SCALE, 1)
        needed = _SWATCH_PX + _GAP_PX + text_px + 2 * _GAP_PX
        if rows[-1] and left + needed > width:
            rows.append([])
            left = _GAP_PX
        rows[-1].append((number, left))
        left += needed
    return rows
