"""How frames of any aspect become the graph's image, and where its pixels come from."""

from __future__ import annotations

import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.image.fit import distortion, fit_frame
from brixel_edge.image.resize import resize_image
from brixel_edge.model.spec import ImageSpec

MEAN = (0.2, 0.4, 0.6)  # of R, G, B


def image_spec(height=64, width=64, channels="BGR"):
    return ImageSpec(height=height, width=width, mean=MEAN, std=(1.0, 1.0, 1.0), channels=channels)


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)


def test_stretch_shows_the_whole_frame(frame):
    fitted = fit_frame(frame, image_spec())
    assert (fitted.image[0] == resize_image(frame, 64, 64)).all()
    view = fitted.view
    assert (view.top_px, view.left_px, view.height_px, view.width_px) == (0, 0, 90, 160)
    assert fitted.frame_size == (90, 160)


def test_crop_keeps_the_aspect_and_the_centre(frame):
    fitted = fit_frame(frame, image_spec(), "crop")
    assert (fitted.image[0] == resize_image(frame[:, 35:125], 64, 64)).all()
    assert (fitted.view.top_px, fitted.view.left_px, fitted.view.height_px, fitted.view.width_px) == (0, 35, 90, 90)
    tall = fit_frame(frame.transpose(1, 0, 2), image_spec(), "crop")
    assert (tall.view.top_px, tall.view.left_px, tall.view.height_px, tall.view.width_px) == (35, 0, 90, 90)


def test_pad_keeps_the_aspect_and_the_whole_frame(frame):
    fitted = fit_frame(frame, image_spec(), "pad")
    assert (fitted.image[0, 14:50] == resize_image(frame, 36, 64)).all()  # 160 : 64 = 90 : 36
    assert (fitted.image[0, [0, 13, 50, 63]] == (153, 102, 51)).all()  # 255 times the mean, as B, G, R
    assert (fitted.view.top_px, fitted.view.left_px) == (-35, 0)  # 14 rows of 2.5 px
    assert (fitted.view.height_px, fitted.view.width_px) == (160, 160)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_rgb_graphs_get_rgb(frame, fit):
    bgr, rgb = (fit_frame(frame, image_spec(channels=order), fit).image for order in ("BGR", "RGB"))
    assert (rgb == bgr[..., ::-1]).all()
    assert rgb.flags.c_contiguous
    assert rgb.shape == (1, 64, 64, 3)


def test_an_exact_aspect_is_the_same_in_all_fits(frame):
    images = [fit_frame(frame, image_spec(36, 64), fit).image for fit in ("stretch", "crop", "pad")]
    assert (images[0] == images[1]).all()
    assert (images[0] == images[2]).all()


def test_extreme_aspects_still_fit():
    line = np.zeros((1, 500, 3), np.uint8)
    for fit in ("stretch", "crop", "pad"):
        assert fit_frame(line, image_spec(), fit).image.shape == (1, 64, 64, 3)


def test_distortion_is_the_change_of_aspect():
    assert distortion((90, 160), image_spec()) == pytest.approx(16 / 9)
    assert distortion((160, 90), image_spec()) == pytest.approx(16 / 9)
    assert distortion((90, 160), image_spec(36, 64)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4), np.uint8), "COLOR_GRAY2BGR"),
        (np.zeros((4, 4, 4), np.uint8), r"with alpha: frame\[..., :3\]"),
        (np.zeros((4, 4, 3), np.float32), "float32 array"),
        ([[1, 2, 3]], "this is a list"),
        (None, "this is a NoneType"),  # what cv2.imread gives for a missing file
    ],
)
def test_what_is_no_frame_is_refused(frame, message):
    with pytest.raises(SpecError, match=message):
        fit_frame(frame, image_spec())


def test_an_unknown_fit_is_refused(frame):
    with pytest.raises(SpecError, match="'zoom' is not one of stretch, crop, pad"):
        fit_frame(frame, image_spec(), "zoom")
