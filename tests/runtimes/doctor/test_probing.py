"""Asking in a child: answers, failures, the time limit; and what a camera's driver says."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from brixel_edge.runtimes.doctor.asking import ask_in_child
from brixel_edge.runtimes.doctor.v4l2 import camera_facts


def child(tmp_path: Path, monkeypatch, body: str) -> str:
    (tmp_path / "acted_probe.py").write_text(f"import os, signal, sys, time\n{body}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "acted_probe"


def test_an_answer_is_the_last_line(tmp_path, monkeypatch):
    module = child(tmp_path, monkeypatch, "print('a library talks'); print('{\"of\": \"' + sys.argv[2] + '\"}')")
    assert ask_in_child("x", "thing", module=module).facts == {"of": "thing"}


def test_a_child_that_hangs_is_killed_at_its_limit(tmp_path, monkeypatch):
    body = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    answer = ask_in_child("x", module=child(tmp_path, monkeypatch, body), limit_s=3.0)
    assert answer.failure == "no answer within 3 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("os.kill(os.getpid(), signal.SIGILL)", "ended by SIGILL"),
        ("raise OSError('libGL.so.1: cannot open')", "OSError: libGL.so.1: cannot open"),
        ('print(\'{"failure": "no such device"}\')', "no such device"),
        ("sys.exit(4)", "ended with status 4"),
    ],
)
def test_a_child_that_fails_says_why(tmp_path, monkeypatch, body, failure):
    assert ask_in_child("x", module=child(tmp_path, monkeypatch, body)).failure == failure


def test_a_file_that_is_no_camera_says_so(tmp_path):
    (tmp_path / "video0").write_text("")
    answer = ask_in_child("camera", str(tmp_path / "video0"))
    assert answer.failure is not None and "ioctl" in answer.failure


class ActedDriver:
    """Answers V4L2's requests for a webcam: MJPG in two sizes with rates, YUYV in any size."""

    def __init__(self, capabilities: int = 0x1) -> None:
        self.capabilities = capabilities

    def __call__(self, handle: int, request: int, answer: bytearray) -> None:
        if request == 0x80685600:
            values = b"uvcvideo", b"HD Webcam", b"usb-1", 0, 0x84A00001, self.capabilities
            struct.pack_into("16s32s32sIII", answer, 0, *values)
        elif request == 0xC0405602:
            [index] = struct.unpack_from("I", answer)
            self._check(index < 2)
            name, fourcc = [(b"Motion-JPEG", b"MJPG"), (b"YUYV 4:2:2", b"YUYV")][index]
            struct.pack_into("32s4s", answer, 12, name, fourcc)
        elif request == 0xC02C564A:
            index, pixels = struct.unpack_from("I4s", answer)
            if pixels == b"MJPG":
                self._check(index < 2)
                struct.pack_into("III", answer, 8, 1, *[(640, 480), (1920, 1080)][index])
            else:  # as some drivers: the same range at every index
                struct.pack_into("I6I", answer, 8, 3, 16, 1280, 2, 16, 720, 2)
        else:
            index, pixels, width = struct.unpack_from("I4sI", answer)
            rates = [(1, 15), (1001, 30000)] if width == 640 else [(1, 10)]
            self._check(index < len(rates) and pixels == b"MJPG")
            struct.pack_into("III", answer, 16, 1, *rates[index])

    @staticmethod
    def _check(is_there: bool) -> None:
        if not is_there:
            raise OSError(errno.EINVAL, "Invalid argument")


def test_formats_sizes_and_rates_are_those_of_the_driver():
    facts = camera_facts(os.devnull, ActedDriver())
    assert (facts["card"], facts["driver"], facts["has_pictures"]) == ("HD Webcam", "uvcvideo", True)
    jpeg, raw = facts["formats"]
    assert (jpeg["fourcc"], jpeg["description"]) == ("MJPG", "Motion-JPEG")
    assert jpeg["sizes"][0] == {"width": 640, "height": 480, "fps": pytest.approx(30000 / 1001)}
    assert jpeg["sizes"][1] == {"width": 1920, "height": 1080, "fps": 10.0}
    assert raw["sizes"] == [{"width": 1280, "height": 720, "fps": None}]


def test_a_device_of_metadata_has_no_pictures():
    facts = camera_facts(os.devnull, ActedDriver(capabilities=0x00800000))
    assert not facts["has_pictures"] and facts["formats"] == []
