"""A dense feature map, what a head makes of it, and where each of its cells lies in the frame it was made from.

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
from brixel_edge.model.head import classes_of, depth_m_of
from brixel_edge.model.head_spec import WITH_CLASSES, HeadKind, HeadSpec
from brixel_edge.model.similarity import cosines


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """The features of one frame, or a head's answer to it, or both.

    Attributes:
        values: (h, w, D) float32 or float16. Often a view with the channels apart in memory; yours to keep. Of a model
            that gives its head's answer alone (h, w, 0).
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
        answer: (h, w, K) float32 of the model's head, as `head` says; None without one.
        head: what the answer is: its kind, classes and colours.
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
    answer: NDArray[np.float32] | None = field(default=None, repr=False)
    head: HeadSpec | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype not in (np.float32, np.float16):
            raise SpecError(f"features must be float (h, w, D); these are {self.values.dtype} {self.values.shape}")
        if min(self.stride_px) <= 0:
            raise SpecError(f"stride {self.stride_px} px must be positive")
        shape = None if self.head is None else (*self.grid, self.head.outputs)
        if shape != (None if self.answer is None else self.answer.shape):
            given = None if self.answer is None else self.answer.shape
            raise SpecError(f"the answer of a head must be {shape}, it is {given}")

    def __repr__(self) -> str:
        h, w, dim = self.values.shape
        parts = [f"{h}x{w} cells", f"{dim} channels" if dim else "", "" if self.head is None else self.head.label]
        return f"FeatureMap({', '.join(filter(None, parts))}, frame {self.frame_index})"

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
            SpecError: as `cell`; or there are no features.
        """
        self._require_features()
        return self.values[self.cell(x=x, y=y)].copy()

    def similarity(self, vector: NDArray[np.floating]) -> NDArray[np.float32]:
        """Cosine of every cell to a feature.

        Args:
            vector: (D,), for instance from `at`, of this or another map of the same model.

        Returns:
            (h, w) float32 in [-1, 1]; 0 where a feature has no length.

        Raises:
            SpecError: a vector of another width, or there are no features.
        """
        self._require_features()
        query = np.asarray(vector)
        if query.ndim != 1:
            raise SpecError(f"a feature of this map has shape ({self.values.shape[2]},), the vector has {query.shape}")
        return cosines(self.values, query[None])[0]

    @property
    def logits(self) -> NDArray[np.float32]:
        """(h, w, K) scores of the classes: logits of a probe, cosines of prototypes.

        Raises:
            SpecError: the model has no such head.
        """
        return self._answer_of("logits", *WITH_CLASSES)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(h, w) numbers of the likeliest classes; `head.classes` names them.

        Raises:
            SpecError: the model has no such head.
        """
        return classes_of(self._answer_of("labels", *WITH_CLASSES))

    @property
    def depth_m(self) -> NDArray[np.float32]:
        """(h, w) depth [m].

        Raises:
            SpecError: the model has no such head.
        """
        return depth_m_of(self._answer_of("depth", "depth"))

    @property
    def components(self) -> NDArray[np.float32]:
        """(h, w, K) principal components.

        Raises:
            SpecError: the model has no such head.
        """
        return self._answer_of("components", "pca")

    def class_at(self, *, x: float, y: float) -> str:
        """Name of the class under a pixel of the original frame.

        Raises:
            SpecError: as `cell`; or the model has no classes.
        """
        number = self.labels[self.cell(x=x, y=y)]
        assert self.head is not None
        return self.head.classes[number]

    def _answer_of(self, what: str, *kinds: HeadKind) -> NDArray[np.float32]:
        if self.head is None or self.answer is None or self.head.kind not in kinds:
            has = "no head" if self.head is None else f"a head of {self.head.label}"
            raise SpecError(f"this map has no {what}: its model has {has}; add one with brixel-export --head FILE")
        return self.answer

    def _require_features(self) -> None:
        if not self.values.shape[2]:
            raise SpecError(
                "this map has no features: its model gives a head's answer alone; export it with --keep-features"
            )

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
