"""Saving the pictures of a stream: a video, or a folder of PNGs. A video appears under its name when it is whole."""

from __future__ import annotations

import importlib.util
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError

# Those that both writers can make; AVI has no time stamps, so OpenCV writes it.
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")
_LOG = logging.getLogger(__name__)
_TIME_BASE = Fraction(1, 1000)
_DEFAULT_FPS = 30.0
# Without look-ahead and frame threads x264 takes 16 MB instead of 49 MB for our pictures, and leaves the cores alone.
# Its middle quality is 23; colour maps are hard edges, which ask for a little more.
_X264 = {"crf": "21", "preset": "veryfast", "tune": "zerolatency", "threads": "1"}


class Recorder(Protocol):
    """Keeps pictures; they all have the size of the first."""

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
            BundleError: it cannot be written; the disk may be full.
        """
        ...

    def close(self) -> None:
        """Finish; the result appears under its name. A second call does nothing."""
        ...


class PngFolder:
    """One PNG a picture."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    @property
    def description(self) -> str:
        """How many, and where."""
        return f"{self._folder}/ ({self._count} PNGs)"

    def write(self, picture: NDArray[np.uint8], t_media_s: float, name: str | None) -> None:
        """Write `000042.png`, or `000042_NAME.png` for the images of a folder."""
        stem = f"{self._count:06d}" + (f"_{Path(name).stem}" if name else "")
        path = self._folder / f"{stem}.png"
        done, data = cv2.imencode(".png", picture)
        try:
            if not done:
                raise OSError("OpenCV cannot encode it")
            path.write_bytes(data.tobytes())
        except OSError as error:
            raise BundleError(f"cannot write {path} ({error.strerror or error}); is the disk full?") from error
        self._count += 1

    def close(self) -> None:
        """Nothing is left to do."""


class _VideoFile:
    """What both ways to write a video share: the temporary name, the fixed size, the count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.stem}.part{path.suffix}")
        self.size: tuple[int, int] | None = None
        self.count = 0

    @property
    def description(self) -> str:
        """How many, and where."""
        return f"{self.path} ({self.count} frames)"

    def fitted(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture in the size of the first one; a source may change its size on the way."""
        if self.size is None:
            self.size = (picture.shape[0], picture.shape[1])
        if picture.shape[:2] != self.size:
            picture = np.asarray(cv2.resize(picture, self.size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        return picture

    def failed(self, error: Exception) -> BundleError:
        """What to raise when a write did not work."""
        return BundleError(f"cannot write {self.path} ({error}); is the disk full?")

    def publish(self) -> None:
        """Give the finished file its name."""
        if self.count:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


class H264Video(_VideoFile):
    """H.264 through PyAV: small, and browsers play it. Every picture has its own time stamp."""

    def __init__(self, path: Path) -> None:
        import av
        import av.error

        super().__init__(path)
        self._errors = (av.error.FFmpegError, OSError)
        self._picture_type = av.VideoFrame
        try:
            self._container: Any = av.open(str(self.temporary), "w")
        except self._errors as error:
            raise self.failed(error) from error
        self._stream: Any = None
        self._first_s = 0.0
        self._last_stamp = -1

    def write(self, picture: NDArray[np.uint8], t_media_s: float, name: str | None) -> None:
        """Encode one picture."""
        picture = self.fitted(picture)
        try:
            stream = self._stream or self._open_stream(t_media_s)
            frame = self._picture_type.from_ndarray(np.ascontiguousarray(picture), format="bgr24")
            frame.time_base = _TIME_BASE
            self._last_stamp = max(self._last_stamp + 1, round((t_media_s - self._first_s) / _TIME_BASE))
            frame.pts = self._last_stamp
            self._container.mux(stream.encode(frame))
        except self._errors as error:
            raise self.failed(error) from error
        self.count += 1

    def _open_stream(self, first_s: float) -> Any:
        assert self.size is not None
        self._first_s = first_s
        self._stream = self._container.add_stream("libx264", rate=30, options=_X264)
        self._stream.height, self._stream.width = self.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _TIME_BASE
        return self._stream

    def close(self) -> None:
        """Flush the encoder and give the file its name."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if self._stream is not None:
                container.mux(self._stream.encode(None))
            container.close()
        except self._errors as error:
            raise self.failed(error) from error
        self.publish()


class OpenCvVideo(_VideoFile):
    """MPEG-4 part 2 through OpenCV: no extra package; players read it, browsers do not. Constant frame rate."""

    def __init__(self, path: Path, fps: float) -> None:
        super().__init__(path)
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._first_s = 0.0
        self._written = 0

    def write(self, picture: NDArray[np.uint8], t_media_s: float, name: str | None) -> None:
        """Encode one picture, again and again where the source was slower than the file's rate."""
        picture = self.fitted(picture)
        if self._writer is None:
            self._writer = self._open(t_media_s)
        due = round((t_media_s - self._first_s) * self._fps) + 1
        for _ in range(max(0, due - self._written)):
            self._writer.write(picture)
            self._written += 1
        self.count += 1

    def _open(self, first_s: float) -> cv2.VideoWriter:
        assert self.size is not None
        self._first_s = first_s
        codec = "MJPG" if self.path.suffix.lower() == ".avi" else "mp4v"
        writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter.fourcc(*codec), self._fps, self.size[::-1])
        if not writer.isOpened():
            raise self.failed(OSError("this cv2 cannot encode it"))
        return writer

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self.publish()


def check_save_path(path: Path) -> None:
    """Refuse what cannot be written before anything slow is done.

    Raises:
        BundleError: the message says what to type.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        if not path.parent.is_dir():
            raise BundleError(f"--save {path}: folder {path.parent} is not there; make it first")
        if path.is_dir():
            raise BundleError(f"--save {path} is a folder; name a video file, or a folder without {path.suffix}")
    elif path.suffix:
        allowed = ", ".join(VIDEO_SUFFIXES)
        raise BundleError(
            f"--save {path}: {path.suffix} is none of {allowed}; a name without suffix is a folder of PNGs"
        )
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BundleError(f"--save {path} is there and not an empty folder; choose another")


def open_recorder(path: Path, fps: float | None) -> Recorder:
    """Make what a --save path names.

    Args:
        path: a video file, or a new or empty folder.
        fps: of the source; used where the file needs a constant rate.

    Raises:
        BundleError: it cannot be written.
    """
    check_save_path(path)
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
    _LOG.warning("saving MPEG-4, which browsers do not play; for H.264: pip install 'brixel-edge[video]'")
    return OpenCvVideo(path, fps or _DEFAULT_FPS)
