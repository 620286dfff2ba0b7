"""Live patterns, and a time that is read back from pixels after scaling and compression."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.sources.clock_picture import paint_time, read_time
from brixel_edge.runtimes.sources.opening import open_source


@pytest.mark.parametrize("size", [(64, 96), (480, 640), (241, 323)])
@pytest.mark.parametrize("time_s", [0.0, 1.5, 123456.789012, 2.0**47 / 1e6])
def test_a_painted_time_is_read_back(size, time_s):
    image = np.full((*size, 3), 128, np.uint8)
    paint_time(image, time_s)
    assert read_time(image) == pytest.approx(time_s, abs=1e-6)
    assert (image[size[0] // 2 + 1 :] == 128).all()


def test_it_outlives_scaling_and_jpeg():
    image = np.full((480, 640, 3), 128, np.uint8)
    paint_time(image, 98765.4321)
    small = cv2.resize(image, (300, 200), interpolation=cv2.INTER_AREA)
    decoded = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    assert read_time(decoded) == pytest.approx(98765.4321, abs=1e-6)


def test_a_damaged_time_is_none_rather_than_wrong(photographs):
    image = np.full((64, 96, 3), 128, np.uint8)
    paint_time(image, 1234.5)
    image[:8, :6] = 255 - image[:8, :6]
    assert read_time(image) is None
    assert [read_time(photograph) for photograph in photographs] == [None] * len(photographs)
    assert read_time(np.zeros((8, 8, 3), np.uint8)) is None


def test_the_clock_shows_when_its_frame_was_taken():
    source = open_source("test:clock?width=96&height=64&fps=200")
    assert source.description == "test:clock (96x64, 200 fps)"
    assert source.is_live
    frames = [source.read() for _ in range(5)]
    assert [frame.index for frame in frames] == list(range(5))
    for frame in frames:
        assert frame.image.shape == (64, 96, 3)
        assert read_time(frame.image) == pytest.approx(frame.t_capture_s, abs=1e-6)
        assert abs(frame.t_utc_s - time.time()) < 5
        assert frame.t_stream_s == frame.index / 200
    source.interrupt()
    assert source.read() is None


def test_the_pattern_moves():
    source = open_source("test:pattern?width=96&height=64")
    assert (source.picture(0, 0.0) != source.picture(20, 0.0)).any()
    assert (source.picture(7, 0.0) == source.picture(7, 9.0)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [("test:noise", "is not one of test:pattern, test:clock"), ("test:clock?speed=2", "is not one of"),
     ("test:clock?width=wide", "a mode that is no number"), ("test:clock?width=8", "sides must be 64 to 8192 px"),
     ("test:clock?fps=0", "sides must be"), ("", "the source is empty"), ("  ", "the source is empty")],
)  # fmt: skip
def test_patterns_that_cannot_be_are_refused(text, message):
    with pytest.raises(SpecError, match=message):
        open_source(text)
