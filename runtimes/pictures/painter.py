"""The picture of a result: the frame beside its feature map in colours, and a line that says what it is."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.image.captions import caption_strip
from brixel_edge.image.colours import PcaColours
from brixel_edge.model.features import FeatureMap

# Longest side of each half [px]: a picture of two fits any screen and costs little to encode.
_LARGEST_PX, _SMALLEST_PX = 640, 480


def pane_size(frame_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which a frame is shown; even numbers, because video codecs halve them."""
    longest = max(frame_size)
    scale = min(max(longest, _SMALLEST_PX), _LARGEST_PX) / longest
    height, width = (max(2, 2 * round(side * scale / 2)) for side in frame_size)
    return height, width


def colours_on_frame(colours: NDArray[np.uint8], features: FeatureMap, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Lay a coloured map over the place in the frame that it describes.

    Args:
        colours: (h, w, 3) BGR, one for each cell.
        features: says where the cells lie.
        size: (height, width) of the frame as shown [px].

    Returns:
        (height, width, 3); black where the graph did not see the frame.
    """
    scale = [shown / real for shown, real in zip(size, features.frame_size, strict=True)]
    stride = [scale[axis] * features.stride_px[axis] for axis in (0, 1)]
    # Shown pixel centre -> cell, nearest: the grid is what it is, and shall look like it.
    rows, columns = (
        np.floor(((np.arange(size[axis]) + 0.5) - scale[axis] * features.offset_px[axis]) / stride[axis]).astype(
            np.intp
        )
        for axis in (0, 1)
    )
    h, w = features.grid
    picture = colours[np.clip(rows, 0, h - 1)][:, np.clip(columns, 0, w - 1)]
    picture[(rows < 0) | (rows >= h)] = 0
    picture[:, (columns < 0) | (columns >= w)] = 0
    return picture


class Painter:
    """Paints the results of one stream, in order: the colours follow the stream."""

    def __init__(self, colours: PcaColours | None = None) -> None:
        self._colours = colours or PcaColours()

    def __call__(self, features: FeatureMap, facts: str, notice: str | None = None) -> NDArray[np.uint8]:
        """Paint one result.

        Args:
            features: with their frame.
            facts: to write under it: model, size, speed.
            notice: what a viewer must know, for instance that the weights are untrained; None for nothing.

        Returns:
            (H, W, 3) uint8 BGR; H and W even, and equal for frames of equal size.

        Raises:
            SpecError: features without their frame.
        """
        if features.frame_bgr is None:
            raise SpecError("these features do not carry their frame; give the frame to the model call")
        size = pane_size(features.frame_size)
        shown = cv2.resize(features.frame_bgr, (size[1], size[0]), interpolation=cv2.INTER_AREA)
        frame = np.asarray(shown, np.uint8)
        coloured = colours_on_frame(self._colours(features.values)[..., ::-1], features, size)
        parts = [np.hstack([frame, coloured]), caption_strip(facts, 2 * size[1])]
        return np.vstack(parts if notice is None else [*parts, caption_strip(notice, 2 * size[1], is_notice=True)])
