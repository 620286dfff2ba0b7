"""Sizes, channels and decoding of pictures, from the first bytes of their files."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from brixel_edge.image.headers import ImageHeader, file_header, image_header
from brixel_edge.runtimes.sources.frames import FrameMemory, memory_of
from brixel_edge.runtimes.sources.opening import open_source


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"])
def test_sizes_are_read_from_headers(suffix):
    done, data = cv2.imencode(suffix, np.zeros((37, 53, 3), np.uint8))
    assert done
    assert image_header(data.tobytes()) == ImageHeader(height=37, width=53)
    assert image_header(data.tobytes()[:9]) is None


def encoded(mode, kind="png", **options):
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.new(mode, (53, 37)).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "channels", "sample_bytes"),
    [
        (encoded("L"), 1, 1),
        (encoded("RGB"), 3, 1),
        (encoded("P"), 3, 1),
        (encoded("P", transparency=0), 4, 1),
        (encoded("LA"), 4, 1),
        (encoded("RGBA"), 4, 1),
        (encoded("I;16"), 1, 2),
        (encoded("RGBA", "webp", lossless=True), 4, 1),
        (encoded("RGBA", "webp", quality=50), 4, 1),
        (encoded("RGB", "webp", lossless=True), 3, 1),
        (encoded("RGB", "webp", exif=b"Exif\0\0II*\0\0\0\0\0"), 3, 1),
        (encoded("L", "tiff"), 1, 1),
        (encoded("RGB", "tiff"), 3, 1),
        (encoded("RGBA", "tiff", compression="tiff_lzw"), 4, 1),
        (encoded("P", "tiff"), 3, 1),
        (encoded("I;16", "tiff"), 1, 2),
        (encoded("1", "tiff"), 1, 1),
        (encoded("RGB", "tiff", big_tiff=True), 3, 1),
        (encoded("L", "ppm"), 1, 1),
        (encoded("RGB", "ppm"), 3, 1),
        (b"P6 # made\n# by hand\n53\n37 65535\n" + bytes(6 * 37 * 53), 3, 2),
    ],
)
def test_channels_are_those_that_opencv_decodes(data, channels, sample_bytes):
    header = image_header(data)
    assert header == ImageHeader(height=37, width=53, channels=channels, sample_bytes=sample_bytes)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.nbytes == 37 * 53 * channels * sample_bytes


@pytest.mark.parametrize(
    ("shape", "dtype"), [((37, 53), "u1"), ((37, 53, 3), "u1"), ((37, 53, 4), "u1"), ((37, 53, 3), "u2")]
)
def test_jpeg_2000_tells_its_header_too(shape, dtype):
    done, data = cv2.imencode(".jp2", np.zeros(shape, dtype))
    assert done
    header = image_header(data.tobytes())
    assert header is not None and header.is_jpeg_2000
    assert (header.height, header.width, header.channels, header.sample_bytes) == (
        37, 53, shape[2] if len(shape) > 2 else 1, np.dtype(dtype).itemsize,
    )  # fmt: skip
    # Twice the file, every sample as an integer of four bytes, and the picture.
    assert header.decoding_bytes(1000) == 2000 + np.prod(shape) * (4 + np.dtype(dtype).itemsize)


def test_a_tiff_s_directory_may_lie_at_its_end(tmp_path):
    path = tmp_path / "large.tif"
    assert cv2.imwrite(str(path), np.zeros((500, 400, 3), np.uint16), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    data = path.read_bytes()
    assert int.from_bytes(data[4:8], "little") > 1 << 18
    assert file_header(path) == ImageHeader(height=500, width=400, channels=3, sample_bytes=2)
    path.write_bytes(data[:-100])
    assert file_header(path) is None or file_header(path) == image_header(data[:-100])
    path.write_bytes(data[:1000])
    assert file_header(path) is None
    assert memory_of(open_source(str(path))) == FrameMemory(frame_bytes=0, own_bytes=0, count=1)


def test_a_tiff_of_the_other_byte_order():
    """By hand: four entries of tag, type, count and value; the bits of three samples lie behind them."""
    entries = [(256, 3, 1, 53 << 16), (257, 4, 1, 37), (258, 3, 3, 62), (277, 3, 1, 3 << 16)]
    directory = struct.pack(">H", 4) + b"".join(struct.pack(">HHII", *entry) for entry in entries) + bytes(4)
    data = b"MM\0*" + struct.pack(">I", 8) + directory + struct.pack(">HHH", 16, 16, 16)
    assert image_header(data) == ImageHeader(height=37, width=53, channels=3, sample_bytes=2)


def test_no_header_is_told_of_what_is_none():
    assert image_header(b"P6 1 2 x ") is None
    assert image_header(b"RIFF0000WAVE" + bytes(40)) is None
    assert image_header(b"II*\0") is None
    assert image_header(b"") is None
    assert image_header(encoded("RGBA", "webp", quality=50)[:28]) is None


def test_decoding_is_counted_by_its_steps():
    """Per pixel: twice what is decoded, or that with eight bits and three channels made of it."""
    steps = {(1, 1): 4, (3, 1): 6, (4, 1): 8, (1, 2): 6, (3, 2): 12, (4, 2): 16}
    for (channels, sample_bytes), each in steps.items():
        header = ImageHeader(height=10, width=10, channels=channels, sample_bytes=sample_bytes)
        assert header.decoding_bytes(7) == 7 + 100 * each
