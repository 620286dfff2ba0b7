"""The photographs that artefacts are proven on: scikit-image's, or a folder that the user names.

They are brought to the graph's size by the same antialiased bicubic kernel as in training and on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing, BundleError
from brixel_edge.image.reading import read_image
from brixel_edge.image.resize import resize_image

PROOF = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
# Activation ranges are measured on others than the proof's.
RANGING = ("camera.png", "coins.png", "ihc.png", "retina.jpg")
MIN_TELLING = 3  # pictures of a proof that could show a fault
# In levels of 0 to 255. Photographs have a contrast of 19 to 80, their red and blue differ by 3 (stars) to 110.
_MIN_CONTRAST, _MIN_COLOUR, _MIN_DIFFERENCE = 8.0, 2.0, 2.0
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def bundled_photographs(names: Sequence[str] = PROOF) -> list[Path]:
    """Photographs that come with scikit-image.

    Raises:
        BackendMissing: scikit-image is not installed.
    """
    try:
        import skimage
    except ImportError as error:
        raise BackendMissing(
            "parity needs photographs: pip install scikit-image, or give --parity-images DIR"
        ) from error
    return [Path(skimage.__file__).parent / "data" / name for name in names]


def photographs_in(folder: Path, limit: int = 32) -> list[Path]:
    """Up to `limit` image files of a folder, by name.

    Raises:
        BundleError: no folder, or none in it.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise BundleError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))}); give a folder of photographs")
    return paths[:limit]


def load_images(paths: Sequence[Path], height: int, width: int, channels: str = "BGR") -> list[NDArray[np.uint8]]:
    """Decode and resize: (1, height, width, 3) uint8 each.

    Raises:
        BundleError: a file that OpenCV cannot read.
    """
    images = []
    for path in paths:
        pixels = read_image(path)
        if pixels is None:
            raise BundleError(f"{path} is not an image that OpenCV reads; remove it from the folder")
        resized = resize_image(pixels, height, width)
        images.append(np.ascontiguousarray(resized[..., ::-1] if channels == "RGB" else resized)[None])
    return images


def faultless_looking(images: Sequence[NDArray[np.uint8]]) -> dict[int, str]:
    """Pictures that could not show a fault, by their place, with the reason.

    On grey pictures swapped channels pass every gate, on constant ones swapped places do, and a picture that is there
    twice proves nothing twice.

    Args:
        images: (1, H, W, 3) uint8 each.
    """
    found: dict[int, str] = {}
    kept: list[NDArray[np.int16]] = []
    for place, image in enumerate(images):
        pixels = image.astype(np.int16)
        if pixels.std() < _MIN_CONTRAST:
            found[place] = "nearly constant"
        elif np.abs(pixels[..., 0] - pixels[..., 2]).mean() < _MIN_COLOUR:
            found[place] = "grey"
        elif any(np.abs(pixels - other).mean() < _MIN_DIFFERENCE for other in kept):
            found[place] = "nearly equal to another"
        else:
            kept.append(pixels)
    return found
