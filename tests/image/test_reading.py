"""Picture files: upright, eight bits, three channels, transparency on white, and the same wherever one is read."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from brixel_edge.calib.sources import calibration_frames
from brixel_edge.image.reading import decode_image, read_image
from brixel_edge.model.spec import ImageSpec
from brixel_edge.proof.photographs import load_images
from brixel_edge.runtimes.sources.opening import open_source
from brixel_edge.training.photographs import photograph_view

COLOUR = (30, 60, 200)  # B, G, R
HEIGHT, WIDTH = 16, 24


def flat(height=24, width=40, colour=COLOUR):
    return np.full((height, width, 3), colour, np.uint8)


def encoded(suffix, pixels, *options):
    done, data = cv2.imencode(suffix, pixels, list(options))
    assert done
    return data.tobytes()


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Put an EXIF block with that orientation behind the start marker."""
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0]) + b"\0\0\0\0"
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def test_exif_rotation_is_applied():
    pixels = flat()
    pixels[:8] = 255  # the top is white
    upright = decode_image(with_orientation(encoded(".jpg", pixels), 6))  # to be turned right by 90 degrees
    assert upright.shape == (40, 24, 3)
    assert upright[:, -4:].mean() > 250
    assert upright[:, :8].mean() < 120


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg"])
def test_grey_becomes_three_equal_channels(suffix):
    grey = decode_image(encoded(suffix, np.full((8, 9), 77, np.uint8)))
    assert grey.shape == (8, 9, 3)
    assert (grey == 77).all()


def test_sixteen_bits_become_eight_over_the_whole_range():
    ramp = np.array([[0, 128, 129, 32896, 65535]], np.uint16)
    assert decode_image(encoded(".png", ramp))[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    colour = np.repeat(ramp[..., None], 3, axis=2)
    assert decode_image(encoded(".png", colour))[0, :, 2].tolist() == [0, 0, 1, 128, 255]


def test_transparency_is_laid_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, :3] = (10, 20, 30)
    pixels[0, :, 3] = (255, 0, 51)
    shown = decode_image(encoded(".png", pixels))
    assert shown[0].tolist() == [[10, 20, 30], [255, 255, 255], [206, 208, 210]]  # 255 - (255 - c) / 5


def test_float_pictures_are_no_photographs():
    assert decode_image(encoded(".tiff", np.ones((4, 4), np.float32))) is None


def test_a_jpeg_that_is_cut_short_is_not_shown_half_grey(photograph_paths):
    data = encoded(".jpg", cv2.imread(str(photograph_paths[0])))
    assert decode_image(data) is not None
    assert decode_image(data + b"trailer of a phone") is not None
    assert decode_image(data[: len(data) // 2]) is None


def transparent(mode):
    """Left half red (or dark grey) and opaque, right half the same and invisible, in a PNG of that kind."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, WIDTH // 2 :] = 0
    red = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    red[..., 0], red[..., 3] = 255, alpha
    if mode == "RGBA":
        return Image.fromarray(red)
    if mode == "LA":
        return Image.merge("LA", [Image.new("L", (WIDTH, HEIGHT), 40), Image.fromarray(alpha)])
    palette = Image.fromarray((alpha == 0).astype(np.uint8), "P")
    palette.putpalette([255, 0, 0, 255, 0, 0])
    palette.info["transparency"] = b"\xff\x00"
    return palette


@pytest.mark.parametrize(("mode", "opaque"), [("RGBA", (0, 0, 255)), ("LA", (40, 40, 40)), ("P", (0, 0, 255))])
def test_a_transparent_png_is_on_white_wherever_it_is_read(tmp_path, mode, opaque):
    path = tmp_path / "p.png"
    transparent(mode).save(path)
    image = ImageSpec(height=HEIGHT, width=WIDTH, mean=(0, 0, 0), std=(1, 1, 1))
    source = open_source(str(path))
    readings = {
        "stream": source.read().image,
        "proof": load_images([path], HEIGHT, WIDTH)[0][0],
        "calibration": calibration_frames(str(tmp_path), image)[0][0],
        "training": photograph_view(path, HEIGHT, WIDTH, lambda height, width: (0, 0, width, height))[..., ::-1],
    }
    expected = np.full((HEIGHT, WIDTH, 3), opaque, np.uint8)
    expected[:, WIDTH // 2 :] = 255
    for where, pixels in readings.items():
        np.testing.assert_array_equal(pixels, expected, err_msg=where)


def test_half_transparent_pixels_differ_by_a_rounding_at_most():
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    ours = decode_image(stream.getvalue())
    theirs = photograph_view(stream.getvalue(), HEIGHT, WIDTH, lambda height, width: (0, 0, width, height))
    assert np.abs(ours.astype(int) - theirs[..., ::-1]).max() <= 1


def test_a_file_that_cannot_be_read_is_none(tmp_path):
    assert read_image(tmp_path / "absent.png") is None
    assert read_image(tmp_path) is None
    (tmp_path / "text.png").write_text("text")
    assert read_image(tmp_path / "text.png") is None
