"""Surface normals from depth and intrinsics, by a plane through each pixel's surroundings.

Differences of neighbouring pixels would measure the steps in which depth is stored: 1 mm in a file against 0.1 mm
between two pixels of a 12-megapixel picture. So a plane n . P = 1 is fitted by least squares to all points of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Half a window, as a part of the picture's width: 6 pixels of 640.
WINDOW_SHARE = 1 / 100
# A window must be measured in most of its pixels, and may not span an edge: depth within it varies by less than this.
MIN_MEASURED, MAX_DEPTH_SPREAD = 0.6, 0.1


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """A pinhole camera [px]: focal lengths and the principal point, counted from the first pixel's centre."""

    fx: float
    fy: float
    cx: float
    cy: float


def points_from_depth(depth: NDArray[np.float32], camera: Intrinsics) -> NDArray[np.float64]:
    """(H, W, 3) points in the camera's axes [m]: x right, y down, z away."""
    height, width = depth.shape
    x = (np.arange(width) - camera.cx) / camera.fx
    y = (np.arange(height) - camera.cy) / camera.fy
    z = depth.astype(np.float64)
    return np.stack((z * x, z * y[:, None], z), axis=-1)


def normals_from_depth(depth: NDArray[np.float32], camera: Intrinsics) -> NDArray[np.float32]:
    """Normals that look at the camera.

    Args:
        depth: (H, W) [m], 0 where there is none.
        camera: that took it.

    Returns:
        (H, W, 3) of length 1; 0 where there is no depth, too little around, or an edge.
    """
    reach = max(1, round(depth.shape[1] * WINDOW_SHARE))
    side = 2 * reach + 1
    measured = depth > 0
    points = points_from_depth(depth, camera)
    # Distances in units of the scene's own, so that the determinant below has a scale.
    unit = float(np.median(depth[measured])) if measured.any() else 1.0
    points = np.where(measured[..., None], points / unit, 0.0)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        filtered = cv2.boxFilter(values, cv2.CV_64F, (side, side), borderType=cv2.BORDER_CONSTANT)
        return np.asarray(filtered, np.float64)

    moments = np.empty((*depth.shape, 3, 3))
    for i in range(3):
        for j in range(i, 3):
            moments[..., i, j] = moments[..., j, i] = mean(points[..., i] * points[..., j])
    sums = np.stack([mean(np.ascontiguousarray(points[..., i])) for i in range(3)], axis=-1)
    planes = np.einsum("hwij,hwj->hwi", _adjugate(moments), sums)  # up to a factor, whose sign is the determinant's
    # n . P = 1 has n on the far side of the plane; the normal that looks at the camera is its opposite.
    lengths = np.linalg.norm(planes, axis=-1, keepdims=True)
    normals = -np.divide(planes, lengths, out=np.zeros_like(planes), where=lengths > 0)
    normals[np.einsum("hwi,hwi->hw", normals, points) > 0] *= -1
    is_good = measured & (mean(measured.astype(np.float64)) >= MIN_MEASURED) & ~_spans_edge(depth, side)
    normals[~is_good] = 0
    return normals.astype(np.float32)


def _adjugate(m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of symmetric 3 x 3 matrices: the inverse times the determinant, which needs no division."""
    out = np.empty_like(m)
    out[..., 0, 0] = m[..., 1, 1] * m[..., 2, 2] - m[..., 1, 2] ** 2
    out[..., 1, 1] = m[..., 0, 0] * m[..., 2, 2] - m[..., 0, 2] ** 2
    out[..., 2, 2] = m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] ** 2
    out[..., 0, 1] = out[..., 1, 0] = m[..., 0, 2] * m[..., 1, 2] - m[..., 0, 1] * m[..., 2, 2]
    out[..., 0, 2] = out[..., 2, 0] = m[..., 0, 1] * m[..., 1, 2] - m[..., 0, 2] * m[..., 1, 1]
    out[..., 1, 2] = out[..., 2, 1] = m[..., 0, 1] * m[..., 0, 2] - m[..., 1, 2] * m[..., 0, 0]
    return out


def _spans_edge(depth: NDArray[np.float32], side: int) -> NDArray[np.bool_]:
    """Whether depth within a window varies too much for one surface."""
    kernel = np.ones((side, side), np.uint8)
    measured = depth > 0
    nearest = cv2.erode(np.where(measured, depth, np.inf).astype(np.float32), kernel)
    farthest = cv2.dilate(depth, kernel)
    return farthest - nearest > MAX_DEPTH_SPREAD * np.maximum(depth, 1e-6)
