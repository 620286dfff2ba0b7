"""A dense feature map, and where each of its cells lies in the frame it was made from.

Coordinates are those of the original frame as OpenCV counts them: x to the right, y down, (0, 0) the centre of the
first pixel. Resizing, cropping and padding on the way into the graph are undone here, so that a user never meets them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.similarity import cosines


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """The features of one frame.

    Attributes:
        values: (h, w, D) float32 or float16. Often a view with the channels apart in memory; yours to keep.
        stride_px: (y, x) pixels of the frame between neighbouring cells.
        offset_px: (y, x) of the top left edge of cell (0, 0), counted from the frame's top left edge; negative
            where the graph saw a padded frame.
        frame_size: (height, width) of the frame [px].
        t_capture_s: when the frame was taken, on the clock of `time.monotonic()` [s].
        frame_index: sequence number; counts the frames that the source gave, dropped ones included.
        is_after_gap: the source was lost or silent, and came back just before this frame.
        t_utc_s: when the frame was taken [s since 1970, UTC]; None where the caller gave the frame.
        t_stream_s: the stream's own time stamp of the frame [s]; None where it has none.
        source: which of the sources of a stream; without passwords.
        frame_bgr: the frame itself, (H, W, 3) uint8, where the source or caller kept it.
        feature_space: of the model; maps of one space may be compared.
    """

    values: NDArray[np.floating]
    stride_px: tuple[float, float]
    offset_px: tuple[float, float]
    frame_size: tuple[int, int]
    t_capture_s: float
    frame_index: int = 0
    is_after_gap: bool = False
    t_utc_s: float | None = None
    t_stream_s: float | None = None
    source: str | None = None
    frame_bgr: NDArray[np.uint8] | None = field(default=None, repr=False)
    feature_space: FeatureSpace | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype not in (np.float32, np.float16):
            raise SpecError(f"features must be float (h, w, D); these are {self.values.dtype} {self.values.shape}")
        if min(self.stride_px) <= 0:
            raise SpecError(f"stride {self.stride_px} px must be positive")

    def __repr__(self) -> str:
        h, w, dim = self.values.shape
        return f"FeatureMap({h}x{w} cells, {dim} channels, frame {self.frame_index})"

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), the number of cells."""
        return self.values.shape[0], self.values.shape[1]

    def cell(self, *, x: float, y: float) -> tuple[int, int]:
        """(row, column) of the cell that lies under a pixel of the original frame.

        Raises:
            SpecError: outside of the frame, or of the part of it that the graph saw; the message has the range.
        """
        row = self._index(y, axis=0)
        column = self._index(x, axis=1)
        if row is None or column is None:
            (y0, y1), (x0, x1) = self._range_px(0), self._range_px(1)
            raise SpecError(f"pixel x={x:g}, y={y:g} has no features; x must be {x0} to {x1} and y {y0} to {y1}")
        return row, column

    def at(self, *, x: float, y: float) -> NDArray[np.floating]:
        """The feature (D,) under a pixel of the original frame; a copy.

        Raises:
            SpecError: as `cell`.
        """
        return self.values[self.cell(x=x, y=y)].copy()

    def similarity(self, vector: NDArray[np.floating]) -> NDArray[np.float32]:
        """Cosine of every cell to a feature.

        Args:
            vector: (D,), for instance from `at`, of this or another map of the same model.

        Returns:
            (h, w) float32 in [-1, 1]; 0 where a feature has no length.

        Raises:
            SpecError: a vector of another width.
        """
        query = np.asarray(vector)
        if query.ndim != 1:
            raise SpecError(f"a feature of this map has shape ({self.values.shape[2]},), the vector has {query.shape}")
        return cosines(self.values, query[None])[0]

    def _index(self, position: float, axis: int) -> int | None:
        """Cell index along one axis; None outside."""
        edge = position + 0.5  # from the frame's edge, not from its first pixel's centre
        if not 0 <= edge <= self.frame_size[axis]:
            return None
        cells = (edge - self.offset_px[axis]) / self.stride_px[axis]
        # The last edge belongs to the last cell.
        return min(int(cells), self.grid[axis] - 1) if 0 <= cells <= self.grid[axis] else None

    def _range_px(self, axis: int) -> tuple[int, int]:
        """First and last whole pixel that has features."""
        first = max(0.0, self.offset_px[axis])
        last = min(float(self.frame_size[axis]), self.offset_px[axis] + self.grid[axis] * self.stride_px[axis])
        return math.ceil(first - 0.5), math.floor(last - 0.5)
