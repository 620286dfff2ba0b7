"""Reading pictures and labels from files, and the messages for what is not there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from brixel_edge.errors import DataError
from brixel_edge.image.reading import read_image

PICTURES = (".jpg", ".jpeg", ".png")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 BGR, upright.

    Raises:
        DataError: it cannot be read.
    """
    pixels = read_image(path)
    if pixels is None:
        raise DataError(f"{path} is not a picture that can be read; fetch it again")
    return pixels


def read_indices(path: Path) -> NDArray[np.uint8]:
    """A label picture of one channel: its numbers, of palette pictures the indices and not the colours.

    Raises:
        DataError: it cannot be read, or is a colour picture.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1"):
                raise DataError(f"{path} is a picture in {image.mode}, not one of class indices; it is another export")
            return np.asarray(image, np.uint8)
    except OSError as error:
        raise DataError(f"{path} is not a label picture that can be read ({error})") from error


def read_uint16(path: Path) -> NDArray[np.uint16]:
    """A 16-bit picture of one channel.

    Raises:
        DataError: it is none.
    """
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 2:
        raise DataError(f"{path} is not a 16-bit picture of one channel, which depth has to be")
    return np.asarray(values, np.uint16)


def first_folder(root: Path, *candidates: str, layout: str) -> Path:
    """The first of several places of a data set that is there, `root` itself among them as `.`.

    Raises:
        DataError: none is; the message shows the layout.
    """
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    raise DataError(f"{root} is not laid out as expected; it must hold {layout}")


def pictures_in(folder: Path) -> list[Path]:
    """Sorted pictures right in a folder; none where it is not there."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def listed(path: Path) -> list[str]:
    """The first word of each line of a list of names.

    Raises:
        DataError: there is no such list.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing, which lists the pictures of the split")
    return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def require(path: Path, what: str) -> Path:
    """The path, if it is a file.

    Raises:
        DataError: it is not there.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing, {what}")
    return path
