"""Feature maps of four things on cells of 10 pixels, whose cosines are known by hand."""

from __future__ import annotations

import numpy as np

from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.features import FeatureMap

SPACE = FeatureSpace(model="m", dim=4, digests=("graph:1",))
# At right angles to each other; of length 2, for lengths must not matter.
SKY, CUP, PLATE, TABLE = np.eye(4, dtype=np.float32) * 2
CUP_AT = (CUP, slice(1, 3), slice(2, 5))


def scene(things=(), grid=(6, 8), space=SPACE, **changes):
    """`things` are (feature, rows, columns) over a sky."""
    values = np.tile(SKY, (*grid, 1)).astype(np.float32)
    for feature, rows, columns in things:
        values[rows, columns] = feature
    settings = {
        "stride_px": (10.0, 10.0), "offset_px": (0.0, 0.0), "frame_size": (10 * grid[0], 10 * grid[1]),
        "t_capture_s": 0.0, "feature_space": space,
    }  # fmt: skip
    return FeatureMap(values=values, **{**settings, **changes})


def mixed(one, other, share):
    """A feature between two."""
    return (1 - share) * one + share * other
