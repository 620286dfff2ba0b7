"""Messages on the wire, judged by rosbags; pixels and calibrations by hand."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.ros.calibration import calibration_of_grid
from brixel_edge.runtimes.ros.pixels import bgr_from_image, image_from_array
from brixel_edge.runtimes.ros.wire.cdr import cdr_from_message, message_from_cdr
from brixel_edge.runtimes.ros.wire.messages import (
    MESSAGES,
    CameraInfo,
    FeatureMapMessage,
    Header,
    Image,
    Message,
    RegionOfInterest,
    String,
    Time,
)

HEADER = Header(stamp=Time(sec=1_700_000_000, nanosec=5), frame_id="böse_camera")
SAMPLES: list[Message] = [
    HEADER,
    Image(header=HEADER, height=2, width=3, encoding="bgr8", step=9, data=np.arange(18, dtype=np.uint8)),
    CameraInfo(
        header=HEADER, height=480, width=640, distortion_model="plumb_bob", d=np.array([0.1, -0.2, 0, 0, 0.3]),
        k=np.arange(9.0), r=np.eye(3).ravel(), p=np.arange(12.0), binning_x=1, binning_y=2,
        roi=RegionOfInterest(x_offset=3, y_offset=4, height=5, width=6, do_rectify=True),
    ),
    CameraInfo(header=Header(frame_id="x")),
    String(data="line"),
    String(),
    FeatureMapMessage(
        header=HEADER, model="tiny", dtype="float16", height=1, width=2, channels=2, frame_height=8, frame_width=16,
        stride_px=np.array([8.0, 8.0]), offset_px=np.array([-1.5, 0.0]),
        data=np.arange(4, dtype=np.float16).view(np.uint8),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def store():
    pytest.importorskip("rosbags", reason="the extra ros is not installed")
    from brixel_edge.runtimes.ros.transports.bag import types_of_bags

    return types_of_bags()


def plain(value):
    """Fields as plain values, whoever's message it is."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    names = getattr(value, "FIELDS", None) or getattr(value, "__dataclass_fields__", None)
    if names is None:
        return value
    return {name: plain(getattr(value, name)) for name in names if not name.startswith("__")}


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_rosbags_reads_what_we_write(store, message):
    own = cdr_from_message(message)
    assert plain(store.deserialize_cdr(own, message.NAME)) == plain(message)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_we_read_what_rosbags_writes(store, message):
    theirs = bytes(store.serialize_cdr(store.deserialize_cdr(cdr_from_message(message), message.NAME), message.NAME))
    assert plain(message_from_cdr(type(message), theirs)) == plain(message)
    assert theirs[: len(cdr_from_message(message))] == cdr_from_message(message)[: len(theirs)]


def test_the_other_byte_order_is_read():
    big = b"\x00\x00\x00\x00" + struct.pack(">iI", 7, 9)
    assert plain(message_from_cdr(Time, big)) == {"sec": 7, "nanosec": 9}


def test_bytes_of_an_image_are_not_copied():
    data = cdr_from_message(SAMPLES[1])
    image = message_from_cdr(Image, data)
    assert np.shares_memory(image.data, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("length", [3, 10, 30])
def test_a_message_that_was_cut_is_refused(length):
    with pytest.raises(SpecError):
        message_from_cdr(Image, cdr_from_message(SAMPLES[1])[:length])


def test_an_array_of_another_length_than_defined_is_refused():
    with pytest.raises(SpecError, match="k has 4 numbers, not 9"):
        cdr_from_message(CameraInfo(k=np.zeros(4)))


def test_every_field_of_a_definition_is_a_field_of_the_class():
    for message in MESSAGES.values():
        assert list(message.FIELDS) == [entry.name for entry in dataclasses.fields(message)]


PIXELS = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)  # BGR


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("bgr8", PIXELS),
        ("rgb8", PIXELS[..., ::-1]),
        ("bgra8", np.dstack([PIXELS, [[7, 7]]])),
        ("rgba8", np.dstack([PIXELS[..., ::-1], [[7, 7]]])),
    ],
)
def test_pixels_of_every_order_become_bgr(encoding, data):
    flat = np.ascontiguousarray(data, np.uint8).reshape(-1)
    image = Image(height=1, width=2, encoding=encoding, step=flat.size, data=flat)
    assert (bgr_from_image(image) == PIXELS).all()


def test_grey_and_padded_rows():
    rows = np.array([[1, 2, 99, 99], [3, 4, 99, 99]], np.uint8)
    image = Image(height=2, width=2, encoding="mono8", step=4, data=rows.reshape(-1))
    assert (bgr_from_image(image)[..., 0] == [[1, 2], [3, 4]]).all()
    assert bgr_from_image(image).shape == (2, 2, 3)


@pytest.mark.parametrize("encoding", ["yuv422_yuy2", "yuv422"])
def test_grey_in_yuv_is_grey(encoding):
    pair = [126, 128, 126, 128] if encoding == "yuv422_yuy2" else [128, 126, 128, 126]
    image = Image(height=2, width=2, encoding=encoding, step=4, data=np.array(pair * 2, np.uint8))
    assert np.ptp(bgr_from_image(image)) <= 1
    assert abs(int(bgr_from_image(image)[0, 0, 0]) - 128) <= 2  # 126 of 16..235 is the middle


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "16UC1"}, "encoding '16UC1' are not read"),
        ({"height": 3}, "has 18 bytes"),
        ({"step": 4}, "in rows of 4"),
        ({"width": 0}, "0 x 2"),
    ],
)
def test_images_that_cannot_be_are_refused(change, message):
    fields = {"height": 2, "width": 3, "encoding": "bgr8", "step": 9, "data": np.zeros(18, np.uint8), **change}
    with pytest.raises(SpecError, match=message):
        bgr_from_image(Image(**fields))


def test_arrays_become_images_of_their_kind():
    image = image_from_array(np.array([[0.5, -1.0]], np.float32), HEADER)
    assert (image.encoding, image.height, image.width, image.step) == ("32FC1", 1, 2, 8)
    assert image.data.view("<f4").tolist() == [0.5, -1.0]
    assert image_from_array(np.zeros((2, 2, 3), np.uint8), HEADER).encoding == "rgb8"
    with pytest.raises(SpecError, match="no encoding for float64"):
        image_from_array(np.zeros((2, 2)), HEADER)


def project(k: np.ndarray, point: np.ndarray) -> np.ndarray:
    x, y, z = k.reshape(3, -1)[:, :3] @ point
    return np.array([x / z, y / z])


def test_a_cell_of_the_map_and_its_pixel_see_the_same_point():
    info = CameraInfo(
        height=480, width=640, k=np.array([500.0, 0, 319.5, 0, 510, 239.5, 0, 0, 1]), r=np.eye(3).ravel(),
        p=np.array([500.0, 0, 319.5, -40, 0, 510, 239.5, 0, 0, 0, 1, 0]), d=np.array([0.1]),
    )  # fmt: skip
    stride, offset = (6.0, 8.0), (-12.0, 80.0)
    scaled = calibration_of_grid(info, HEADER, (64, 60), stride, offset, (480, 640))
    assert (scaled.height, scaled.width, scaled.d.tolist()) == (64, 60, [0.1])
    for point in (np.array([0.1, -0.2, 1.5]), np.array([0, 0, 1.0])):
        u, v = project(info.k, point)
        # By the definition of stride and offset: cell edges lie at offset + cell * stride, pixels at centre + 0.5.
        column, row = (u + 0.5 - offset[1]) / stride[1] - 0.5, (v + 0.5 - offset[0]) / stride[0] - 0.5
        assert project(scaled.k, point) == pytest.approx([column, row])
        assert project(scaled.p, point) == pytest.approx([column, row])
    assert scaled.p[3] == pytest.approx(-40 / 8)
    assert (scaled.header.stamp.ns, scaled.binning_x, scaled.roi.width) == (HEADER.stamp.ns, 0, 0)


def test_a_part_of_a_binned_sensor_is_accounted_for():
    k = np.array([1000.0, 0, 640, 0, 1000, 360, 0, 0, 1])
    roi = RegionOfInterest(x_offset=320, y_offset=0, height=720, width=640)
    info = CameraInfo(height=720, width=1280, k=k, p=np.zeros(12), binning_x=2, binning_y=2, roi=roi)
    scaled = calibration_of_grid(info, HEADER, (90, 80), (4.0, 4.0), (0.0, 0.0), (360, 320))
    # The sensor's column 640 (centre): edge 640.5, in the region 320.5, binned 160.25, in cells 40.0625.
    assert scaled.k[2] == pytest.approx(160.25 / 4 - 0.5)
    assert scaled.k[0] == pytest.approx(1000 / 8)


def test_a_calibration_of_another_size_is_refused():
    with pytest.raises(SpecError, match="is of 640 x 480 pixels, the image has 320 x 240"):
        calibration_of_grid(CameraInfo(height=480, width=640), HEADER, (8, 8), (1, 1), (0, 0), (240, 320))
