"""Frames and where they come from: one string names a camera, a stream, a file, a folder or the demo.

    0, /dev/video2                   a camera; `0?width=1280&height=720&fps=30&fourcc=MJPG` asks it for a mode
    rtsp://..., http://..., udp://... a network stream
    gst:<pipeline> ! appsink          GStreamer, where cv2 is built with it
    clip.mp4, folder/, 'dir/*.jpg'    files, every frame of them
    demo:                             a slow pan and zoom over scikit-image's photographs

A live source goes on without us, so its reader keeps only the newest frame; a file waits for us.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError

DEMO = "demo:"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"})
_GLOB = re.compile(r"[*?\[]")
_URL = re.compile(r"^(rtsps?|https?|udp|tcp|rtmps?|srt|rtp)://", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        index: counts what the source delivered, from 0.
        t_capture_s: when it was taken, `time.monotonic()` [s]: at the end of the grab, before decoding.
        t_media_s: its place on the source's own time line, from 0 [s].
        capture_s: what decoding took [s].
        is_after_gap: the source was lost and came back just before.
        name: of the file, where each frame is one.
    """

    image: NDArray[np.uint8] = field(repr=False)
    index: int
    t_capture_s: float
    t_media_s: float
    capture_s: float
    is_after_gap: bool = False
    name: str | None = None


class FrameSource(Protocol):
    """Something that gives frames. One thread reads it and closes it."""

    @property
    def description(self) -> str:
        """What the user's string turned out to be, without passwords."""
        ...

    @property
    def is_live(self) -> bool:
        """Whether it goes on when nobody reads."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames a second as the source announces them; None if it does not."""
        ...

    @property
    def skipped(self) -> int:
        """Frames or files that could not be read."""
        ...

    def read(self) -> Frame | None:
        """The next frame, waiting for it; None at the end.

        Raises:
            SourceError: lost for good.
            BundleError: the files turn out not to be what they should be.
        """
        ...

    def interrupt(self) -> None:
        """Make a waiting `read` in another thread return soon."""
        ...

    def close(self) -> None:
        """Let go of the camera or file."""
        ...


def is_camera_address(text: str) -> bool:
    """Whether a string names a camera: a number or a device, perhaps with the mode to ask for."""
    name = text.partition("?")[0]
    return name.isdigit() or name.startswith("/dev/video") or name.startswith("/dev/v4l/")


def is_file_url(text: str) -> bool:
    """Whether a URL ends like a video file, which has an end and can wait."""
    path = text.partition("?")[0]
    return text.lower().startswith("http") and Path(path).suffix.lower() in VIDEO_SUFFIXES


def open_source(text: str, reconnect_s: float = 30.0) -> FrameSource:
    """Open what a string names.

    Args:
        text: see the module's head.
        reconnect_s: for how long a lost camera or stream is tried again before it counts as lost for good [s].

    Raises:
        SourceError: a camera or stream that does not open.
        BundleError: a file that is missing or neither video nor image, a folder without images.
        BackendMissing: `demo:` without scikit-image, `gst:` without GStreamer in cv2.
        SpecError: a camera mode that cannot be read.
    """
    # Each kind imports cv2, and only what it needs besides.
    if text == DEMO:
        from brixel_edge.runtimes.sources.demo import DemoSource

        return DemoSource()
    if text.startswith("gst:") or is_camera_address(text) or (_URL.match(text) and not is_file_url(text)):
        from brixel_edge.runtimes.sources.camera import open_camera

        return open_camera(text, reconnect_s)
    if _URL.match(text):
        from brixel_edge.runtimes.sources.video import VideoFile

        return VideoFile(text)
    return _open_files(text)


def _open_files(text: str) -> FrameSource:
    from brixel_edge.runtimes.sources.images import ImageFiles, images_from_folder, images_from_glob
    from brixel_edge.runtimes.sources.video import VideoFile

    path = Path(text).expanduser()
    if path.is_dir():
        return ImageFiles(images_from_folder(path), str(path))
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return ImageFiles([path], str(path))
        return VideoFile(str(path))
    if _GLOB.search(text):
        return ImageFiles(images_from_glob(text), text)
    raise BundleError(
        f"source {text!r} is not there; give a video file, a folder or glob of images, a camera (0, /dev/video0), "
        "a URL (rtsp://...) or demo:"
    )
