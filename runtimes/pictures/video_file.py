"""What all ways to write a video share: the temporary name, the fixed size, the count."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError


class VideoFile:
    """A video that is being written beside its target, and takes its name at the end.

    Attributes:
        path: the target.
        temporary: where it is written; what a killed process leaves.
        count: pictures so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
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

    def failed(self, error: Exception, kept: str = "") -> BundleError:
        """What to raise when a write did not work.

        Args:
            error: why.
            kept: what is left of the recording, for the message.
        """
        reason = getattr(error, "strerror", None) or error
        return BundleError(f"cannot write {self.path} ({reason}); is the disk full?{kept}")

    def publish(self) -> None:
        """Give the file its name, if there is a picture in it.

        Raises:
            BundleError: it cannot be renamed.
        """
        try:
            if self.count:
                self.temporary.replace(self.path)
            else:
                self.temporary.unlink(missing_ok=True)
        except OSError as error:
            raise self.failed(error, f" It lies beside it as {self.temporary.name}") from error
