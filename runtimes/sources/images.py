"""A folder, a glob or a single image as a source: every readable picture, once, in natural order."""

from __future__ import annotations

import glob
import logging
import re
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError
from brixel_edge.image.headers import file_header
from brixel_edge.image.reading import IMAGE_SUFFIXES, Decoded, decode_with_complaint
from brixel_edge.runtimes.sources.frames import Frame, FrameMemory, fitting_bytes
from brixel_edge.runtimes.sources.video import VIDEO_SUFFIXES

_LOG = logging.getLogger(__name__)
# Of a folder as a film: long enough to look at each picture.
SECONDS_PER_IMAGE = 1.0


def _natural(path: Path) -> list[tuple[int, str | int]]:
    """Sort key in which frame9 comes before frame10."""
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in re.split(r"(\d+)", str(path)) if part]


def images_from_folder(folder: Path) -> list[Path]:
    """The images of a folder, without its subfolders.

    Raises:
        BundleError: there are none.
    """
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    images = sorted((path for path in files if path.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
    if not images:
        videos = [path.name for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        found = (
            f"it has the video {videos[0]}, name that" if videos else f"those end in {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
        raise BundleError(f"folder {folder} has no images; {found}")
    return images


def images_from_glob(pattern: str) -> list[Path]:
    """The files that a pattern matches; `**` goes into subfolders.

    Raises:
        BundleError: there are none.
    """
    files = (Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 - absolute
    images = sorted((path for path in files if path.is_file()), key=_natural)
    if not images:
        raise BundleError(f"no file matches {pattern!r}; quote it, so that the shell leaves the pattern to us")
    return images


def _memory_of(path: Path) -> FrameMemory | None:
    """What one file takes by its header; None where that does not tell."""
    try:
        header, file_bytes = file_header(path), path.stat().st_size
    except OSError:
        return None
    if header is None:
        return None
    decoding = header.decoding_bytes(file_bytes) - header.bgr_bytes
    return FrameMemory(
        frame_bytes=header.bgr_bytes, own_bytes=max(decoding, fitting_bytes(header.height, header.width))
    )


class ImageFiles:
    """A list of image files as a source; unreadable ones are left out, with a warning each and a count."""

    is_live = False
    fps = 1 / SECONDS_PER_IMAGE

    def __init__(self, paths: list[Path], name: str) -> None:
        self._paths = paths
        self._next = self._delivered = 0
        self._name = name
        self.skipped = 0
        self.description = f"{name} ({len(paths)} image{'s' if len(paths) != 1 else ''})"

    def read(self) -> Frame | None:
        """The next readable image; None after the last.

        Raises:
            BundleError: not one of them could be read.
        """
        while self._next < len(self._paths):
            path = self._paths[self._next]
            self._next += 1
            start = time.monotonic()
            if (pixels := self._pixels(path)) is not None:
                return self._frame(pixels, path, start)
        if not self._delivered:
            raise BundleError(f"{self._name}: none of {len(self._paths)} files is an image that can be read")
        return None

    def _pixels(self, path: Path) -> NDArray[np.uint8] | None:
        try:
            decoded = decode_with_complaint(path.read_bytes())
        except OSError as error:
            decoded = Decoded(pixels=None, complaint=error.strerror or "not readable")
        if decoded.pixels is None:
            self.skipped += 1
            _LOG.warning("skipped %s: %s", path, decoded.complaint or "not an image, or cut short")
        elif decoded.complaint is not None:
            _LOG.warning("%s is damaged: %s", path, decoded.complaint)
        return decoded.pixels

    def _frame(self, pixels: NDArray[np.uint8], path: Path, start_s: float) -> Frame:
        index, self._delivered = self._delivered, self._delivered + 1
        return Frame(
            image=pixels,
            index=index,
            t_capture_s=start_s,
            t_media_s=index * SECONDS_PER_IMAGE,
            capture_s=time.monotonic() - start_s,
            name=path.name,
        )

    def memory(self) -> FrameMemory:
        """By the headers of all files: the largest frame, and the most that decoding one of them takes beside it."""
        told = [memory for path in self._paths if (memory := _memory_of(path)) is not None]
        return FrameMemory(
            frame_bytes=max((memory.frame_bytes for memory in told), default=0),
            own_bytes=max((memory.own_bytes for memory in told), default=0),
            count=len(self._paths),
        )

    def interrupt(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing stays open."""
