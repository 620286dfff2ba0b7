"""Saving the pictures of a stream: a video, or a folder of PNGs."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError
from brixel_edge.runtimes.pictures.h264_video import H264Video
from brixel_edge.runtimes.pictures.opencv_video import OpenCvVideo
from brixel_edge.runtimes.pictures.png_folder import PngFolder
from brixel_edge.runtimes.pictures.targets import VIDEO_SUFFIXES

_LOG = logging.getLogger(__name__)
_DEFAULT_FPS = 30.0


class Recorder(Protocol):
    """Keeps pictures; those of a video all have the size of the first."""

    @property
    def description(self) -> str:
        """What was saved where."""
        ...

    def write(self, picture: NDArray[np.uint8], t_media_s: float, name: str | None) -> None:
        """Add one (H, W, 3) uint8 BGR picture.

        Args:
            picture: to save.
            t_media_s: when it is to be shown, rising [s].
            name: of the file that it was made from, if each is one.

        Raises:
            BundleError: it cannot be written; the disk may be full. What was written before stays readable.
        """
        ...

    def close(self) -> None:
        """Finish; the result appears under its name, after a failed write too. A second call does nothing.

        Raises:
            BundleError: the end cannot be written.
        """
        ...


def open_recorder(path: Path, fps: float | None) -> Recorder:
    """Make what a --save path names, where that is for pictures; `targets.check_target` has passed.

    Args:
        path: a video file, or a folder.
        fps: of the source; used where the file needs a constant rate.

    Raises:
        BundleError: it cannot be written.
    """
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BundleError(f"--save {path} cannot be made ({error.strerror})") from error
        return PngFolder(path)
    if path.suffix.lower() == ".avi":
        return OpenCvVideo(path, fps or _DEFAULT_FPS)
    if importlib.util.find_spec("av") is not None:
        return H264Video(path)
    _LOG.warning(
        "saving MPEG-4 by OpenCV: browsers do not play it, and a power cut loses all of it; "
        "for H.264 that survives: pip install 'brixel-edge[video]'"
    )
    return OpenCvVideo(path, fps or _DEFAULT_FPS)
