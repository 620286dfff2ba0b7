"""What can happen to a stream, one fault a test: the age of every frame stays true, states and counters are right."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest
import tiny_model
from busy import allowed

from brixel_edge.errors import BrixelError, SourceError
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.sources import capture
from brixel_edge.runtimes.sources.opening import open_source
from brixel_edge.runtimes.stream.stream import Stream

pytestmark = pytest.mark.stream


@pytest.mark.parametrize("arguments", [(), ("--fps", "5"), ("--codec", "jpeg")], ids=["h264", "5 fps", "jpeg"])
def test_the_first_frames_are_as_old_as_they_say(camera, watch, arguments):
    watched = watch(camera(*arguments).url())
    watched.for_s(4.0)
    assert watched.order == ["opening", "running"]
    assert watched.rows[0][2] < 1.0
    assert watched.stream.counters.dropped > 0  # what the library had buffered
    assert all(row[3].t_stream_s is not None and abs(row[3].t_utc_s - time.time()) < 60 for row in watched.rows)


def test_a_server_that_is_stopped_for_three_seconds(camera, watch):
    one = camera()
    watched = watch(one.url())
    watched.for_s(2.0)
    one.stop()
    threading.Timer(3.0, one.go_on).start()
    row = watched.until_gap()
    assert 5.0 < row[0] < allowed(15.0)
    watched.for_s(1.0)
    assert watched.order[:3] == ["opening", "running", "stalled"]
    assert watched.order[-1] == "running"
    assert watched.stream.counters.gaps >= 1


def test_a_server_that_is_stopped_for_longer_than_two_reads(camera, watch):
    """FFmpeg gives out one more frame, 5 s old, after the first; after the second the stream is opened again."""
    one = camera()
    watched = watch(one.url())
    watched.for_s(2.0)
    one.stop()
    threading.Timer(12.0, one.go_on).start()
    row = watched.until_gap()
    assert row[0] < allowed(30.0)
    assert row[2] < 1.0
    watched.for_s(1.0)
    assert watched.order[:3] == ["opening", "running", "stalled"]
    assert "reconnecting" in watched.order[3:]
    assert watched.order[-1] == "running"
    assert watched.source["reconnects"] == 1


@pytest.mark.parametrize("size", ["320x240", "480x320"], ids=["same", "resized"])
def test_a_server_that_is_killed_and_comes_back(camera, watch, size):
    one = camera()
    watched = watch(one.url())
    watched.for_s(2.0)
    one.kill()
    time.sleep(1.0)
    one.start("--size", size)
    row = watched.until_gap()
    assert row[3].frame_size == tuple(map(int, size.split("x")))[::-1]
    assert row[0] < allowed(15.0)
    watched.for_s(1.0)
    assert "reconnecting" in watched.states
    assert watched.order[-1] == "running"


def test_a_server_that_stays_away(camera, watch):
    one = camera()
    watched = watch(one.url(), reconnect_s=2.0)
    watched.for_s(1.0)
    one.kill()
    start_s = time.monotonic()
    with pytest.raises(SourceError, match="was lost and did not come back within 2 s") as raised:
        watched.for_s(60.0)
    assert time.monotonic() - start_s < allowed(10)
    assert raised.value.kind == "refused"
    assert watched.stream.health()["state"] == "failed"
    one.start()


def test_a_wire_that_stalls(camera, wire, watch):
    laid = wire(camera().port)
    watched = watch(f"rtsp://127.0.0.1:{laid.port}/clock")
    watched.for_s(2.0)
    laid.is_stalled = True
    threading.Timer(2.5, lambda: setattr(laid, "is_stalled", False)).start()
    row = watched.until_gap()
    assert 4.0 < row[0] < allowed(12.0)
    watched.for_s(1.0)
    assert watched.order[:4] == ["opening", "running", "stalled", "running"]
    assert "reconnecting" not in watched.source["entered"]
    assert watched.source["reconnects"] == 0
    assert watched.stream.counters.gaps == watched.source["entered"]["stalled"] or allowed(1) > 1


def test_a_wire_that_is_cut(camera, wire, watch):
    laid = wire(camera().port)
    watched = watch(f"rtsp://127.0.0.1:{laid.port}/clock")
    watched.for_s(2.0)
    laid.cut()
    row = watched.until_gap()
    assert row[0] < allowed(10.0)
    assert "reconnecting" in watched.states


def test_a_wire_that_is_half_open(camera, wire, watch, monkeypatch):
    """Connections are taken and never answered; then it is mended."""
    monkeypatch.setattr(capture, "_OPEN_TIMEOUT_MS", 1500)
    laid = wire(camera().port)
    watched = watch(f"rtsp://127.0.0.1:{laid.port}/clock")
    watched.for_s(1.5)
    laid.is_half_open = True
    laid.cut()
    threading.Timer(4.0, lambda: setattr(laid, "is_half_open", False)).start()
    row = watched.until_gap()
    assert 4.0 < row[0] < allowed(20.0)
    assert "reconnecting" in watched.states


def test_a_wire_that_is_too_thin_makes_frames_old_and_says_so(camera, wire, watch):
    laid = wire(camera("--codec", "jpeg").port)
    watched = watch(f"rtsp://127.0.0.1:{laid.port}/clock", policy="latest")
    watched.for_s(2.0)
    laid.bytes_per_s = 100_000
    row = watched.until(lambda row: row[1] > 0.7)
    assert row[2] > 0.55


def test_a_slow_consumer_gets_young_frames(camera, watch):
    watched = watch(camera().url(), policy="max-age=300")
    watched.until(lambda row: len(watched.rows) > 20, work_s=0.2)
    assert max(row[2] for row in watched.rows) < 0.8  # taken within 0.3 s, and inference
    assert watched.stream.counters.dropped > 40


def test_a_login_is_asked_for_refused_and_taken(camera, watch):
    one = camera("--login", "me:p/s@s")
    for login, kind in (("", "authentication"), ("me:wrong@", "authentication")):
        with pytest.raises(SourceError) as raised:
            open_source(one.url(login))
        assert raised.value.kind == kind
        assert "wrong" not in str(raised.value)
    watched = watch(one.url("me:p/s@s@"))
    watched.for_s(0.5)
    assert "p/s" not in str(watched.stream.health())


def test_a_path_that_is_not_there(camera):
    with pytest.raises(SourceError) as raised:
        open_source(camera().url(path="other"))
    assert raised.value.kind == "not found"


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (320, 240))
    for number in range(100):
        writer.write(np.random.default_rng(number).integers(0, 255, (240, 320, 3), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("damage", ["cut in half", "noise in the middle", "head gone", "empty"])
def test_a_damaged_file_ends_with_what_could_be_read_or_is_refused(video, tmp_path, damage):
    data = bytearray(video.read_bytes())
    if damage == "cut in half":
        data = data[: len(data) // 2]
    elif damage == "noise in the middle":
        data[len(data) // 3 : len(data) // 2] = np.random.default_rng(0).bytes(len(data) // 2 - len(data) // 3)
    else:
        data = data[2000:] if damage == "head gone" else bytearray()
    video.write_bytes(bytes(data))
    with open_model(tiny_model.save(tmp_path / "tiny.onnx"), backend="ort") as model:
        try:
            with Stream(model, open_source(str(video))) as results:
                count = len(list(results))
                counters = results.counters
        except BrixelError as error:
            assert error.exit_code == 2
        else:
            assert counters.frames_in == counters.delivered == count <= 100
