"""One PNG a picture; each appears under its name when it is whole."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError
from brixel_edge.machine.files import numbered_stem, replacing


class PngFolder:
    """A folder of PNGs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    @property
    def description(self) -> str:
        """How many, and where."""
        return f"{self._folder}/ ({self._count} PNGs)"

    def write(self, picture: NDArray[np.uint8], t_media_s: float, name: str | None) -> None:
        """Write `000042.png`, or `000042_NAME.png` for the images of a folder.

        Raises:
            BundleError: it cannot be written; those before it are whole.
        """
        path = self._folder / f"{numbered_stem(self._count, name)}.png"
        done, data = cv2.imencode(".png", picture)
        try:
            if not done:
                raise OSError("OpenCV cannot encode it")
            # Not waiting for the disk, which on an SD card takes longer than the picture.
            with replacing(path, is_durable=False) as temporary:
                temporary.write_bytes(data.data)
        except OSError as error:
            raise BundleError(
                f"cannot write {path} ({error.strerror or error}); is the disk full? "
                f"The {self._count} PNGs before it are whole"
            ) from error
        self._count += 1

    def close(self) -> None:
        """Nothing is left to do."""
