"""A video file, or one behind an http address: every frame, in order."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import cv2

from brixel_edge.errors import BundleError, SourceError
from brixel_edge.image.reading import bgr_from_pixels
from brixel_edge.machine.addresses import address_for_libraries, label_from_address
from brixel_edge.runtimes.sources.diagnosis import TIMED_OUT, diagnose
from brixel_edge.runtimes.sources.frames import Frame, FrameMemory

_LOG = logging.getLogger(__name__)
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"})
_DEFAULT_FPS = 25.0
# FFmpeg draws text files as films of scrolling text, and no camera ever made one of these.
_TEXT_CODECS = ("ansi", "bin", "xbin", "idf")
# An index and a damaged end can disagree a little about the number of frames.
_COMPLETE = 0.9


def is_file_url(text: str) -> bool:
    """Whether a URL ends like a video file, which has an end and can wait."""
    path = text.partition("?")[0]
    return text.lower().startswith("http") and Path(path).suffix.lower() in VIDEO_SUFFIXES


def _codec(capture: cv2.VideoCapture) -> str:
    return int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("latin-1").strip("\0 ")


# Together with the question why it does not open, a dead server is refused within five seconds.
_TIMEOUT_MS, _DIAGNOSIS_S = 4000, 0.9


def _open(path: str) -> cv2.VideoCapture | None:
    # Named, because OpenCV would else try files as numbered image sequences and more. Some boards' cv2 has no FFmpeg.
    backends = cv2.videoio_registry.getStreamBackends()
    backend = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in backends else cv2.CAP_ANY
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    is_url = "://" in path and backend == cv2.CAP_FFMPEG
    capture = cv2.VideoCapture(address_for_libraries(path), backend, timeouts if is_url else [])
    if capture.isOpened() and _codec(capture) not in _TEXT_CODECS:
        return capture
    capture.release()
    return None


def _refusal(path: str, label: str, taken_s: float) -> BundleError | SourceError:
    """What to say of a video that does not open: a server's reason, or the file's."""
    if "://" in path:
        failure = TIMED_OUT if taken_s > 0.9e-3 * _TIMEOUT_MS else diagnose(path, _DIAGNOSIS_S)
        if failure.kind != "codec":
            return SourceError(f"{label} does not open: it {failure.reason}", kind=failure.kind)
    return BundleError(f"{label} is not a video that can be read; give a video file, an image, or a folder of images")


class VideoFile:
    """A video file as a source."""

    is_live = False
    skipped = 0

    def __init__(self, path: str) -> None:
        label = label_from_address(path)
        start_s = time.monotonic()
        capture = _open(path)
        if capture is None:
            raise _refusal(path, label, time.monotonic() - start_s)
        self._capture = capture
        self._path = label
        self._index = 0
        self._announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        announced_fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = announced_fps if 0 < announced_fps < 1000 else _DEFAULT_FPS
        width, height = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        self._size = height, width
        self.description = f"{label} ({width}x{height}, {self.fps:.4g} fps)"

    def read(self) -> Frame | None:
        """The next frame; None after the last.

        Raises:
            BundleError: not one frame could be decoded.
        """
        start = time.monotonic()
        has_frame, pixels = self._capture.read()
        image = bgr_from_pixels(pixels) if has_frame else None
        if image is None:
            self._check_end()
            return None
        index, self._index = self._index, self._index + 1
        now = time.monotonic()
        return Frame(image=image, index=index, t_capture_s=start, t_media_s=index / self.fps, capture_s=now - start)

    def _check_end(self) -> None:
        if not self._index:
            raise BundleError(
                f"{self._path} is a video without a frame that can be decoded; record or convert it again"
            )
        if self._index < self._announced * _COMPLETE:
            _LOG.warning("%s ends after %d of %d frames; it may be cut short", self._path, self._index, self._announced)

    def memory(self) -> FrameMemory:
        """What decoding takes."""
        return FrameMemory.of_video(*self._size)

    def interrupt(self) -> None:
        """A file does not wait."""

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
