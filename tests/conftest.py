"""Fixtures shared by all tests: real photographs, the shared data where it is there, and small models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def photograph_paths() -> list[Path]:
    """Photographs that scikit-image carries."""
    import skimage

    return [Path(skimage.__file__).parent / "data" / name for name in PHOTOGRAPHS]


@pytest.fixture(scope="session")
def photographs(photograph_paths: list[Path]) -> list[np.ndarray]:
    """The same as uint8 (H, W, 3) BGR arrays."""
    import cv2

    return [cv2.imread(str(path)) for path in photograph_paths]
