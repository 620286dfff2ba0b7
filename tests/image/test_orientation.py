"""EXIF's orientation in PNG and WebP, as training reads it; what libraries say of broken files."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from brixel_edge.image.orientation import orientation_of
from brixel_edge.image.reading import decode_image, decode_with_complaint
from brixel_edge.training.photographs import photograph_view


def stored(kind, orientation, mode="RGB", **options):
    """A picture without symmetry, with that orientation, by Pillow."""
    pixels = np.zeros((20, 32, len(mode)), np.uint8)
    pixels[..., 0] = np.arange(20)[:, None] * 12
    pixels[..., -1] = pixels[..., -1] // 2 + np.arange(32)[None] * 3
    pixels[3:6, 4:12] = 255
    if mode == "RGBA":
        pixels[..., 3] = 255
    exif = Image.Exif()
    exif[0x010E] = "a description before it"
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels).save(stream, kind, exif=exif, **options)
    return stream.getvalue()


KINDS = [
    ("PNG", "RGB", {}), ("PNG", "L", {}), ("PNG", "RGBA", {}), ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {"lossless": True}),
]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "mode", "options"), KINDS, ids=lambda value: str(value))
def test_pictures_stand_upright_as_pillow_turns_them(kind, mode, options, orientation):
    data = stored(kind, orientation, mode, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert (decode_image(data)[..., ::-1] == np.asarray(upright)).all()
    assert orientation_of(data) == orientation


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_training_and_device_agree(kind):
    data = stored(kind, 6, lossless=True)
    trained = photograph_view(data, 32, 20, lambda height, width: (0, 0, width, height))
    assert (decode_image(data)[..., ::-1] == trained).all()


def test_big_endian_blocks_are_read():
    block = b"MM\0\x2a\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x08\0\0" + b"\0\0\0\0"
    data = stored("PNG", 1)
    assert orientation_of(with_block(data, block)) == 8
    assert orientation_of(with_block(data, b"Exif\0\0" + block)) == 8


def chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def with_block(png, block, *, is_last=False):
    """In place of the block that is there."""
    done, plain = cv2.imencode(".png", cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED))
    assert done
    plain = plain.tobytes()
    place = plain.index(b"IEND" if is_last else b"IDAT") - 4
    return plain[:place] + chunk(b"eXIf", block) + plain[place:]


def test_damaged_blocks_leave_the_picture_as_it_is():
    good = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0\0\0\0"
    data = stored("PNG", 1)
    assert orientation_of(with_block(data, good)) == 6
    for block in (good[:9], good[:19], b"", b"XX" + good[2:], good.replace(b"\x06\0\0\0", b"\x09\0\0\0")):
        assert orientation_of(with_block(data, block)) == 1
        assert decode_image(with_block(data, block)).shape == (20, 32, 3)
    assert orientation_of(with_block(data, good, is_last=True)) == 1  # as training
    assert orientation_of(data[:20]) == orientation_of(b"RIFF") == orientation_of(b"") == 1
    assert orientation_of(stored("WEBP", 6)[:-10]) in (1, 6)


def broken_png():
    data = bytearray(stored("PNG", 1))
    data[data.index(b"IDAT") + 9] ^= 0xFF
    return bytes(data)


def test_what_libpng_says_is_the_reason_and_not_on_stderr(capfd):
    decoded = decode_with_complaint(broken_png())
    assert "libpng" in decoded.complaint
    assert capfd.readouterr().err == ""


def test_what_libjpeg_says_of_a_picture_that_it_mended_is_told(photographs, capfd):
    done, data = cv2.imencode(".jpg", photographs[0])
    assert done
    data = data.tobytes()
    decoded = decode_with_complaint(data[: len(data) // 2] + data[len(data) // 2 + 5000 :])
    assert decoded.pixels is not None
    assert "Corrupt JPEG data" in decoded.complaint
    assert capfd.readouterr().err == ""


def test_a_run_over_a_broken_png_has_lines_of_its_own_only(graph, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(broken_png())
    (tmp_path / "pictures" / "b.png").write_bytes(stored("PNG", 6))
    command = [sys.executable, "-m", "brixel_edge.commands.run", str(graph), "--source", "pictures", "--headless"]
    run = subprocess.run([*command, "--backend", "ort"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    lines = run.stderr.splitlines()
    assert all(line.startswith("brixel-run: ") for line in lines), lines
    [line] = [line for line in lines if "a.png" in line]
    assert line.startswith(("brixel-run: warning: skipped", "brixel-run: warning: pictures/a.png is damaged"))
    assert "libpng" in line
