"""How a frame of any size becomes the image of a graph, and which part of the frame that image shows.

Three ways: `stretch` takes the whole frame and lets its aspect go; `crop` keeps the aspect and the centre; `pad` keeps
the aspect and the whole frame, with bars of the mean colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.image.resize import resize_image
from brixel_edge.model.spec import ImageSpec

Fit = Literal["stretch", "crop", "pad"]

# From here on the change of aspect is worth a word to the user.
NOTABLE_DISTORTION = 1.1


@dataclass(frozen=True, kw_only=True)
class View:
    """The rectangle of the original frame that the graph's image shows [px of the frame].

    With `pad` it is larger than the frame and starts at negative coordinates.
    """

    top_px: float
    left_px: float
    height_px: float
    width_px: float


@dataclass(frozen=True, kw_only=True)
class FittedImage:
    """What a runtime takes, with its place in the frame.

    Attributes:
        image: (1, H, W, 3) uint8, C-contiguous, channels as the graph wants them.
        view: what of the frame it shows.
        frame_size: (height, width) of the frame [px].
    """

    image: NDArray[np.uint8]
    view: View
    frame_size: tuple[int, int]


def check_fit(fit: str) -> None:
    """Refuse an unknown way to fit.

    Raises:
        SpecError: it is none of the three.
    """
    if fit not in get_args(Fit):
        raise SpecError(f"fit {fit!r} is not one of {', '.join(get_args(Fit))}")


def distortion(frame_size: tuple[int, int], image: ImageSpec) -> float:
    """By which factor `stretch` changes the aspect, >= 1."""
    ratio = (frame_size[1] / frame_size[0]) / (image.width / image.height)
    return max(ratio, 1 / ratio)


def _check_frame(frame: NDArray[np.uint8]) -> None:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        given = f"{frame.dtype} array" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise SpecError(f"a frame must be a uint8 numpy array (H, W, 3) in BGR; this is a {given}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise SpecError(
            f"a frame must be uint8 (H, W, 3) in BGR; this one is {frame.shape} "
            "(grey: cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR); with alpha: frame[..., :3])"
        )


def fit_frame(frame: NDArray[np.uint8], image: ImageSpec, fit: Fit = "stretch") -> FittedImage:
    """Bring a frame to the size and channel order of a graph.

    Args:
        frame: (H, W, 3) uint8 BGR, as OpenCV delivers; any size and strides. Not changed.
        image: what the graph takes.
        fit: what to do where the aspects differ.

    Raises:
        SpecError: no such frame, no such fit.
    """
    _check_frame(frame)
    check_fit(fit)
    height, width = frame.shape[:2]
    if fit == "pad":
        pixels, view = _padded(frame, image)
    else:
        top, left, rows, columns = _centre(height, width, image) if fit == "crop" else (0, 0, height, width)
        pixels = resize_image(frame[top : top + rows, left : left + columns], image.height, image.width)
        view = View(top_px=top, left_px=left, height_px=rows, width_px=columns)
    if image.channels == "RGB":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return FittedImage(image=pixels[None], view=view, frame_size=(height, width))


def _centre(height: int, width: int, image: ImageSpec) -> tuple[int, int, int, int]:
    """(top, left, rows, columns) of the largest centred rectangle with the image's aspect."""
    rows = min(height, max(1, round(width * image.height / image.width)))
    columns = min(width, max(1, round(height * image.width / image.height)))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _padded(frame: NDArray[np.uint8], image: ImageSpec) -> tuple[NDArray[np.uint8], View]:
    """The frame at the largest scale that fits, on the mean colour, which the graph turns into zeros."""
    height, width = frame.shape[:2]
    scale = min(image.height / height, image.width / width)
    rows = min(image.height, max(1, round(height * scale)))
    columns = min(image.width, max(1, round(width * scale)))
    top, left = (image.height - rows) // 2, (image.width - columns) // 2
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    pixels[:] = np.rint(np.multiply(image.mean[::-1], 255))
    pixels[top : top + rows, left : left + columns] = resize_image(frame, rows, columns)
    y_px, x_px = height / rows, width / columns  # frame pixels to one image pixel
    view = View(top_px=-top * y_px, left_px=-left * x_px, height_px=image.height * y_px, width_px=image.width * x_px)
    return pixels, view
