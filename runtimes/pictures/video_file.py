"""What all ways to write a video share: the size of its pictures is that of the first."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.machine.new_file import NewFile


class VideoFile(NewFile):
    """A video that is being written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size: tuple[int, int] | None = None

    def fitted(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture in the size of the first one; a source may change its size on the way."""
        if self.size is None:
            self.size = (picture.shape[0], picture.shape[1])
        if picture.shape[:2] != self.size:
            picture = np.asarray(cv2.resize(picture, self.size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        return picture
