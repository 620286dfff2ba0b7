"""MPEG-4 part 2 or motion JPEG through OpenCV: no extra package; players read it, browsers do not. A constant rate.

OpenCV's writer reports no error, and an mp4 of it has its index at the end: what it cannot promise is that anything is
left after a power cut, or after a quota. So it is stopped while the disk still has room for the index, its file is
watched while it grows, and read before it gets its name.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError
from brixel_edge.runtimes.pictures.video_file import VideoFile

_REMEDY = "; pip install 'brixel-edge[video]' for recordings that survive that"
# An index entry takes 16 to 32 bytes a frame in mp4 and avi. FFmpeg 7 keeps 256 KiB back, measured on OpenCV 5.0.
_INDEX_BYTES, _BUFFER_BYTES = 32, 1 << 19
# A frame in which nothing changes still takes a bit for each block of 16 x 16 pixels.
_PIXELS_PER_BYTE = 16 * 16 * 8


def free_bytes(folder: Path) -> int:
    """What users may still write there."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class OpenCvVideo(VideoFile):
    """A video of OpenCV's writer."""

    def __init__(self, path: Path, fps: float) -> None:
        super().__init__(path)
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._first_s = 0.0
        self._written = 0
        self._bytes_before = self._grown_at = 0

    def write(self, picture: NDArray[np.uint8], t_media_s: float, name: str | None) -> None:
        """Encode one picture, again and again where the source was slower than the file's rate.

        Raises:
            BundleError: the disk is nearly full, or the file does not grow; `close` keeps what can be kept.
        """
        picture = self.fitted(picture)
        if self._writer is None:
            self._writer = self._open(t_media_s)
        due = round((t_media_s - self._first_s) * self._fps) + 1
        for _ in range(max(0, due - self._written)):
            self._check_room(picture.nbytes)
            self._writer.write(picture)
            self._written += 1
            self._check_growth()
        self.count += 1

    def _check_room(self, picture_bytes: int) -> None:
        if free_bytes(self.path.parent) < picture_bytes + _BUFFER_BYTES + _INDEX_BYTES * self._written:
            raise BundleError(
                f"stopped writing {self.path}, for the disk is nearly full and OpenCV needs room for the index; "
                f"its {self.count} frames until then are kept"
            )

    def _check_growth(self) -> None:
        """A file that does not grow for more frames than any buffer holds is written no more: a quota, a limit."""
        assert self.size is not None
        size = self.temporary.stat().st_size
        if size > self._bytes_before:
            self._bytes_before, self._grown_at = size, self._written
        elif (self._written - self._grown_at) * self.size[0] * self.size[1] > _BUFFER_BYTES * _PIXELS_PER_BYTE:
            raise BundleError(f"{self.path} grows no more, and OpenCV's writer does not say why{_REMEDY}")

    def _open(self, first_s: float) -> cv2.VideoWriter:
        assert self.size is not None
        self._first_s = first_s
        self._check_room(3 * self.size[0] * self.size[1])
        codec = "MJPG" if self.path.suffix.lower() == ".avi" else "mp4v"
        writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter.fourcc(*codec), self._fps, self.size[::-1])
        if not writer.isOpened():
            raise self.failed(OSError("this cv2 cannot encode it"))
        return writer

    def close(self) -> None:
        """Finish the file, read it, and give it its name.

        Raises:
            BundleError: it cannot be read.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if self.count and not self._is_whole():
            raise BundleError(
                f"what OpenCV wrote for {self.path} cannot be read, perhaps for want of room; it lies beside it as "
                f"{self.temporary.name}{_REMEDY}"
            )
        self.publish()

    def _is_whole(self) -> bool:
        """Whether the file has its index, all its frames by it, and a first one that can be decoded."""
        capture = cv2.VideoCapture(str(self.temporary))
        try:
            announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
            return capture.read()[0] and announced >= self._written
        finally:
            capture.release()
