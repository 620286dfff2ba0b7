"""ROS's image encodings to BGR pixels, and arrays of ours to images."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.ros.wire.messages import Header, Image

# Channels as they lie in memory, and what makes BGR of them; None is BGR already.
_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "bgr8": (3, None),
    "8UC3": (3, None),
    "rgb8": (3, cv2.COLOR_RGB2BGR),
    "bgra8": (4, cv2.COLOR_BGRA2BGR),
    "rgba8": (4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, cv2.COLOR_GRAY2BGR),
    "8UC1": (1, cv2.COLOR_GRAY2BGR),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2BGR_YUY2),
    "yuv422": (2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2BGR_UYVY),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2BGR),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2BGR),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2BGR),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2BGR),
}
_NAMES = {("uint8", 1): "mono8", ("uint8", 3): "rgb8", ("float32", 1): "32FC1"}


def bgr_from_image(image: Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR; a view of the message where it is BGR already.

    Raises:
        SpecError: another encoding, or fewer bytes than its size needs.
    """
    if image.encoding not in _ENCODINGS:
        raise SpecError(f"images of encoding {image.encoding!r} are not read; publish one of {', '.join(_ENCODINGS)}")
    channels, code = _ENCODINGS[image.encoding]
    row = image.width * channels
    step = image.step or row
    if not image.height or not image.width or step < row or len(image.data) < step * image.height:
        raise SpecError(
            f"an image of {image.width} x {image.height} in {image.encoding} has {len(image.data)} bytes, "
            f"in rows of {step}"
        )
    rows = image.data[: step * image.height].reshape(image.height, step)[:, :row]
    pixels = rows.reshape(image.height, image.width, channels) if channels > 1 else rows
    return np.asarray(pixels if code is None else cv2.cvtColor(np.ascontiguousarray(pixels), code), np.uint8)


def image_from_array(array: NDArray, header: Header) -> Image:
    """An image of (h, w, 3) uint8 RGB, (h, w) uint8 or (h, w) float32.

    Raises:
        SpecError: another array.
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    encoding = _NAMES.get((array.dtype.name, channels))
    if encoding is None or array.ndim not in (2, 3):
        raise SpecError(f"no encoding for {array.dtype} {array.shape}; give (h, w, 3) uint8, (h, w) uint8 or float32")
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return Image(
        header=header,
        height=array.shape[0],
        width=array.shape[1],
        encoding=encoding,
        step=array.shape[1] * channels * array.itemsize,
        data=little.view(np.uint8).reshape(-1),
    )
