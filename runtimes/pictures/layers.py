"""Where things lie in a picture: the frame as shown beside its map, and the cells over it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
        colours: (h, w, K), one for each cell; K is 3 for BGR.
        features: says where the cells lie.
        size: (height, width) of the frame as shown [px].

    Returns:
        (height, width, K); 0 where the graph did not see the frame.
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


def frame_point(x: float, y: float, frame_size: tuple[int, int]) -> tuple[float, float] | None:
    """The pixel of a frame that a point of the picture of a result shows.

    Args:
        x: of the picture [px]; frame and map stand side by side, and both show the same places.
        y: of the picture [px].
        frame_size: (height, width) of the frame.

    Returns:
        (x, y) in the frame [px]; None on the captions.
    """
    height, width = pane_size(frame_size)
    if not (0 <= x < 2 * width and 0 <= y < height):
        return None
    across, down = (x % width + 0.5) / width, (y + 0.5) / height
    return across * frame_size[1] - 0.5, down * frame_size[0] - 0.5
