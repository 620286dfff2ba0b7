"""A camera's calibration, brought from the camera's pixels to the cells of a feature map.

With it, tools for images (depth_image_proc, RViz) place cells in space as they would place pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.ros.wire.messages import CameraInfo, Header


def calibration_of_grid(
    info: CameraInfo,
    header: Header,
    grid: tuple[int, int],
    stride_px: tuple[float, float],
    offset_px: tuple[float, float],
    frame_size: tuple[int, int],
) -> CameraInfo:
    """The calibration of an image whose pixels are the cells of a map.

    ROS counts from the centre of the first pixel, offsets and strides from the frame's edge: a column x of the frame is
    column (x + 0.5 - offset) / stride - 0.5 of the map.

    Args:
        info: of the camera, which may bin pixels or show a part of its sensor.
        header: of the result: time and frame of the image.
        grid: (h, w).
        stride_px: (y, x) as in FeatureMap.
        offset_px: (y, x) as in FeatureMap.
        frame_size: (height, width) of the image that the map was made from.

    Raises:
        SpecError: the calibration is of an image of another size.
    """
    binning = max(info.binning_y, 1), max(info.binning_x, 1)
    shown = info.roi.height or info.height, info.roi.width or info.width
    calibrated = shown[0] // binning[0], shown[1] // binning[1]
    if calibrated != tuple(frame_size):
        raise SpecError(
            f"the calibration is of {calibrated[1]} x {calibrated[0]} pixels, the image has {frame_size[1]} x "
            f"{frame_size[0]}; publish the camera_info of this image"
        )
    start = info.roi.y_offset, info.roi.x_offset
    # From sensor to image to map, each as edge coordinates: scaled by 1 / stride, shifted by -offset / stride.
    strides = tuple(binning[axis] * stride_px[axis] for axis in (0, 1))
    offsets = tuple(start[axis] + binning[axis] * offset_px[axis] for axis in (0, 1))
    h, w = grid
    return CameraInfo(
        header=header,
        height=h,
        width=w,
        distortion_model=info.distortion_model,
        d=info.d,
        k=_scaled(info.k.reshape(3, 3), strides, offsets),
        r=info.r,
        p=_scaled(info.p.reshape(3, 4), strides, offsets),
    )


def _scaled(matrix: NDArray[np.float64], strides: tuple[float, ...], offsets: tuple[float, ...]) -> NDArray[np.float64]:
    """A projection onto pixels, followed by the way from pixels to cells; an uncalibrated one (zeros) stays so."""
    (sy, sx), (oy, ox) = strides, offsets
    cells = np.array([[1 / sx, 0, (0.5 - ox) / sx - 0.5], [0, 1 / sy, (0.5 - oy) / sy - 0.5], [0, 0, 1]])
    return (cells @ matrix).reshape(-1)
