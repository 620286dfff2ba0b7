"""Cameras and streams: what an address means, stamps, loss and return. A fake capture for the cases that cannot be
staged, a real stream over HTTP for those that can."""

from __future__ import annotations

import http.server
import threading
import time

import cv2
import numpy as np
import pytest

from brixel_edge.errors import BackendMissing, SourceError, SpecError
from brixel_edge.runtimes.sources import camera, camera_address, capture, opening
from brixel_edge.runtimes.sources.camera import CameraSource
from brixel_edge.runtimes.sources.camera_address import CameraAddress, is_camera_address, parse_camera
from brixel_edge.runtimes.sources.diagnosis import Failure
from brixel_edge.runtimes.sources.opening import open_source
from brixel_edge.runtimes.sources.video import is_file_url

PICTURE = np.full((12, 16, 3), 90, np.uint8)


class FakeCapture:
    """Follows a script whose steps are a picture, None for a failed grab, or seconds to wait."""

    opened: list[FakeCapture] = []  # noqa: RUF012 - reset by the fixture
    scripts: list[list | None] = []  # noqa: RUF012 - one for each opening; None does not open

    def __init__(self, target, backend, parameters):
        self.target, self.backend, self.parameters = target, backend, parameters
        self.properties: dict[int, float] = {}
        self.released = False
        script = self.scripts.pop(0) if self.scripts else None
        self.is_open = script is not None
        self.script = list(script or [])
        self.opened.append(self)

    def isOpened(self):
        return self.is_open

    def grab(self):
        while self.script and isinstance(self.script[0], float):
            time.sleep(self.script.pop(0))
        self.next = self.script.pop(0) if self.script else None
        return self.next is not None

    def retrieve(self):
        return self.next is not None, self.next

    def set(self, key, value):
        self.properties[key] = value

    def get(self, key):
        return self.properties.get(key, {cv2.CAP_PROP_FPS: 30.0}.get(key, 0.0))

    def getBackendName(self):
        return "FAKE"

    def release(self):
        self.released = True


@pytest.fixture
def fake(monkeypatch):
    FakeCapture.opened, FakeCapture.scripts = [], []
    monkeypatch.setattr(capture.cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(capture, "diagnose", lambda url, timeout_s: Failure(kind="refused", reason="refuses"))
    monkeypatch.setattr(camera, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(camera, "_LONGEST_PAUSE_S", 0.04)
    return FakeCapture


def stream_address(timeouts=False):
    return CameraAddress(target="rtsp://host/1", backend=cv2.CAP_FFMPEG, label="rtsp://host/1", timeouts=timeouts)


def test_a_number_is_a_v4l2_device_on_linux(monkeypatch):
    monkeypatch.setattr(camera_address.sys, "platform", "linux")
    address = parse_camera("0")
    assert (address.target, address.backend, address.label) == ("/dev/video0", cv2.CAP_V4L2, "camera 0 = /dev/video0")
    assert parse_camera("/dev/video7").label == "camera /dev/video7"
    monkeypatch.setattr(camera_address.sys, "platform", "darwin")
    assert (parse_camera("1").target, parse_camera("1").backend) == (1, cv2.CAP_ANY)


def test_a_mode_is_asked_for_with_the_format_first():
    mode = parse_camera("0?width=1280&height=720&fps=30&fourcc=MJPG").mode
    assert mode[0] == (cv2.CAP_PROP_FOURCC, float(cv2.VideoWriter.fourcc(*"MJPG")))
    assert dict(mode[1:]) == {cv2.CAP_PROP_FRAME_WIDTH: 1280, cv2.CAP_PROP_FRAME_HEIGHT: 720, cv2.CAP_PROP_FPS: 30}


@pytest.mark.parametrize(
    ("text", "message"),
    [("0?size=1", "camera mode 'size' .* is not one of width, height"), ("0?width=wide", "cannot be read"),
     ("0?fourcc=MJ", "cannot be read")],
)  # fmt: skip
def test_a_mode_that_cannot_be_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        parse_camera(text)


def test_kinds_of_addresses():
    assert [is_camera_address(text) for text in ("0", "12?fps=5", "/dev/video0", "/dev/v4l/by-id/x")] == [True] * 4
    assert [is_camera_address(text) for text in ("0.mp4", "rtsp://1", "folder", "-1", "²")] == [False] * 5
    assert is_file_url("https://host/a/film.MP4?token=1")
    assert not is_file_url("http://host/stream")
    assert not is_file_url("rtsp://host/film.mp4")


def test_passwords_are_not_shown(fake):
    with pytest.raises(SourceError) as raised:
        open_source("rtsp://me:secret@10.0.0.7/1")
    assert str(raised.value).startswith("rtsp://***@10.0.0.7/1 does not open")
    assert raised.value.kind == "refused"
    assert fake.opened[0].target == "rtsp://me:secret@10.0.0.7/1"


def test_gstreamer_is_asked_of_its_own_bindings_and_then_of_cv2(monkeypatch):
    """Bindings first; else a cv2 that has it; else the child says what to install."""
    taken = []
    monkeypatch.setattr(opening, "ChildSource", lambda text, _: taken.append(("child", text)))
    monkeypatch.setattr(opening, "open_camera", lambda text, _: taken.append(("cv2", text)))
    for has_bindings, has_cv2 in [(True, True), (True, False), (False, True), (False, False)]:
        monkeypatch.setattr(opening, "has_gstreamer_bindings", lambda has=has_bindings: has)
        monkeypatch.setattr(opening, "has_gstreamer_in_cv2", lambda has=has_cv2: has)
        open_source("gst:videotestsrc")
    tail = "videoconvert ! video/x-raw,format=BGR ! appsink name=brixel drop=true max-buffers=1 sync=false"
    assert [who for who, _ in taken] == ["child", "child", "cv2", "child"]
    assert taken[2][1] == f"gst:videotestsrc ! {tail}"


def test_a_cv2_without_gstreamer_is_refused(monkeypatch):
    monkeypatch.setattr(camera_address.cv2, "getBuildInformation", lambda: "    GStreamer:      NO\n")
    with pytest.raises(BackendMissing, match="uninstall opencv-python-headless and use JetPack's"):
        parse_camera("gst:videotestsrc ! appsink")
    monkeypatch.setattr(camera_address.cv2, "getBuildInformation", lambda: "    GStreamer:      YES (1.22)\n")
    address = parse_camera("gst: videotestsrc ! appsink")
    assert (address.target, address.backend) == ("videotestsrc ! appsink", cv2.CAP_GSTREAMER)


def test_a_camera_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        SourceError, match=r"camera 99 = /dev/video99 is not there \(cameras here: .*--source test:pattern"
    ) as raised:
        open_source("99")
    assert raised.value.exit_code == 7


def test_a_stream_is_opened_with_timeouts(fake):
    fake.scripts = [[PICTURE]]
    CameraSource(stream_address(timeouts=True), reconnect_s=1)
    parameters = fake.opened[0].parameters
    named = dict(zip(parameters[::2], parameters[1::2], strict=True))
    assert named == {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 4000,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: 5000,
        cv2.CAP_PROP_N_THREADS: 1,
    }


def test_frames_are_stamped_at_the_grab_and_counted(fake):
    fake.scripts = [[PICTURE, 0.05, PICTURE, PICTURE]]
    source = CameraSource(stream_address(), reconnect_s=1)
    assert source.is_live
    frames = [source.read() for _ in range(3)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[1].t_capture_s - frames[0].t_capture_s >= 0.05
    assert frames[2].t_capture_s >= frames[1].t_capture_s
    assert time.monotonic() - frames[2].t_capture_s < 1
    assert not any(frame.is_after_gap for frame in frames)


def test_a_mode_that_the_camera_did_not_take_is_said(fake, warnings):
    fake.scripts = [[PICTURE]]
    fake.set = lambda self, key, value: None
    try:
        address = CameraAddress(target="x", backend=0, label="camera 0", mode=((cv2.CAP_PROP_FRAME_WIDTH, 1280.0),))
        CameraSource(address, reconnect_s=1)
    finally:
        del fake.set
        fake.set = lambda self, key, value: self.properties.__setitem__(key, value)
    assert "camera 0 did not take the mode that was asked for" in warnings.text


def test_a_camera_without_pictures_is_refused_at_once(fake):
    fake.scripts = [[None]]
    with pytest.raises(SourceError, match="opens but gives no frame"):
        CameraSource(stream_address(), reconnect_s=60).read()


def test_a_lost_stream_comes_back_with_a_gap(fake, warnings):
    fake.scripts = [[PICTURE, None], None, None, [PICTURE, PICTURE, PICTURE]]
    source = CameraSource(stream_address(), reconnect_s=5)
    frames = [source.read() for _ in range(3)]
    assert [frame.is_after_gap for frame in frames] == [False, True, False]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert (source.status.reconnects, source.status.failure) == (1, None)
    assert len(fake.opened) == 4
    assert fake.opened[0].released
    assert "is lost (end); trying again for 5 s" in warnings.text
    assert "is back after" in warnings.text


def test_a_stream_that_opens_again_without_pictures_is_not_back(fake):
    fake.scripts = [[PICTURE, None], [None], [PICTURE, PICTURE]]
    source = CameraSource(stream_address(), reconnect_s=5)
    assert [source.read().is_after_gap for _ in range(2)] == [False, True]


def test_a_stream_that_stays_away_is_lost_for_good(fake):
    fake.scripts = [[PICTURE, None]]
    source = CameraSource(stream_address(), reconnect_s=0.2)
    source.read()
    with pytest.raises(SourceError, match="was lost and did not come back within 0 s"):
        source.read()
    assert 3 <= len(fake.opened) <= 12  # pauses grow: 10, 20, 40, 40, 40, 40 ms; not one try after the other


def test_waiting_for_a_camera_can_be_interrupted(fake):
    fake.scripts = [[PICTURE, None]]
    source = CameraSource(stream_address(), reconnect_s=600)
    source.read()
    timer = threading.Timer(0.1, source.interrupt)
    timer.start()
    start = time.monotonic()
    assert source.read() is None
    assert time.monotonic() - start < 2


def test_frames_that_the_driver_kept_while_nobody_read_are_thrown_away(fake, monkeypatch):
    monkeypatch.setattr(capture, "_PAUSE_S", 0.05)
    old, new = np.zeros_like(PICTURE), PICTURE
    fake.scripts = [[old, old, old, 0.02, new, new]]
    source = CameraSource(stream_address(), reconnect_s=1)
    time.sleep(0.1)  # a model is loaded
    frame = source.read()
    assert (frame.image == new).all()
    # Those thrown away have their numbers: in = delivered + dropped + waiting.
    assert (frame.index, source.status.drained) == (4, 4)


class TestClock:
    """Time passes when it is told to."""

    __test__ = False
    now_s = 1000.0

    def monotonic(self):
        return self.now_s


class ClockedCapture(FakeCapture):
    """A stream with stamps: `script` holds (stamp, seconds to wait), in a time of its own."""

    clock: TestClock

    def grab(self):
        if not self.script:
            return False
        stamp_s, wait_s = self.script.pop(0)
        self.clock.now_s += wait_s
        self.next, self.properties[cv2.CAP_PROP_POS_MSEC] = PICTURE, 1e3 * stamp_s
        return True


@pytest.fixture
def clocked(fake, monkeypatch):
    monkeypatch.setattr(capture.cv2, "VideoCapture", ClockedCapture)
    ClockedCapture.clock = clock = TestClock()
    monkeypatch.setattr(capture, "time", clock)
    monkeypatch.setattr(camera, "time", clock)
    return ClockedCapture


def test_a_burst_at_the_start_is_counted_and_not_delivered(clocked):
    clocked.scripts = [[(100 + index / 50, 0.0 if index < 50 else 0.02) for index in range(100)]]
    source = CameraSource(stream_address(timeouts=True), reconnect_s=1)
    frame = source.read()
    assert 60 < frame.index < 95  # half a second in time with its stamps
    assert source.status.drained == frame.index
    assert frame.t_stream_s == pytest.approx(100 + frame.index / 50)
    # FFmpeg held it back until the next one began, 20 ms after it.
    assert frame.t_capture_s == pytest.approx(clocked.clock.now_s - 0.02)


def test_frames_before_a_silence_are_old_and_say_that_there_was_one(clocked, monkeypatch):
    monkeypatch.setattr(camera, "_SILENCE_S", 0.3)
    steady = [(index / 50, 0.02) for index in range(50)]
    # Nothing for 0.5 s; then what was taken meanwhile, at once; then in time again.
    behind = [(1 + index / 50, 0.0 if index else 0.5) for index in range(25)]
    after = [(1.5 + index / 50, 0.02) for index in range(10)]
    clocked.scripts = [steady + behind + after]
    source = CameraSource(stream_address(timeouts=True), reconnect_s=0.05)
    frames, ages = [], {}
    while not frames or frames[-1].index < 84:
        frames.append(source.read())
        ages[frames[-1].index] = clocked.clock.now_s - frames[-1].t_capture_s
    assert [frame.index for frame in frames if frame.is_after_gap] == [50]
    # By hand: taken 20 ms after the one before, here 500 ms after it; then each is 20 ms younger. And FFmpeg holds one.
    assert [ages[index] for index in (49, 50, 60, 74, 84)] == pytest.approx([0.02, 0.5, 0.3, 0.02, 0.02], abs=1e-3)


def test_a_camera_s_frame_is_stamped_before_it_is_decoded(fake, monkeypatch):
    monkeypatch.setattr(fake, "retrieve", lambda self: time.sleep(0.2) or (True, self.next))
    fake.scripts = [[PICTURE]]
    start = time.monotonic()
    frame = CameraSource(stream_address(), reconnect_s=1).read()
    assert time.monotonic() - frame.t_capture_s >= 0.2
    assert frame.t_capture_s - start < 0.2
    assert frame.capture_s >= 0.2


def test_a_driver_s_own_stamp_is_the_time_of_a_frame(fake):
    taken_s = time.monotonic() - 0.4
    fake.scripts = [[PICTURE]]
    address = CameraAddress(target="/dev/null", backend=cv2.CAP_V4L2, label="camera 0")
    source = CameraSource(address, reconnect_s=1)
    fake.opened[0].properties[cv2.CAP_PROP_POS_MSEC] = 1e3 * taken_s
    frame = source.read()
    assert frame.t_capture_s == pytest.approx(taken_s, abs=1e-6)


def test_pauses_between_tries_double(fake, monkeypatch):
    pauses = []
    monkeypatch.setattr(camera.random, "uniform", lambda *_: 1.0)
    fake.scripts = [[PICTURE, None], None, None, None, None, [PICTURE]]
    source = CameraSource(stream_address(), reconnect_s=5)
    monkeypatch.setattr(source._stop, "wait", lambda pause_s: pauses.append(pause_s) and False)
    source.read()
    source.read()
    assert pauses == [0.01, 0.02, 0.04, 0.04, 0.04]


class MjpegServer(http.server.ThreadingHTTPServer):
    """A camera with an HTTP stream: 20 pictures a second, brighter each time, until it is shut down."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), _MjpegHandler)
        self.stop = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def end(self):
        self.stop.set()
        self.shutdown()
        self.server_close()


class _MjpegHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        number = 0
        try:
            while not self.server.stop.wait(0.05):
                number += 1
                data = cv2.imencode(".jpg", np.full((120, 160, 3), 10 * number % 250, np.uint8))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
        except OSError:
            pass

    def log_message(self, *_):
        pass


def test_a_real_stream_is_read_lost_and_found_again(warnings):
    server = MjpegServer()
    port = server.server_address[1]
    source = open_source(f"http://127.0.0.1:{port}/video", reconnect_s=20)
    assert source.is_live
    before = [source.read() for _ in range(3)]
    assert before[0].image.shape == (120, 160, 3)
    drained = source.status.drained
    server.end()
    again: list[MjpegServer] = []
    timer = threading.Timer(0.5, lambda: again.append(MjpegServer(port)))
    timer.start()
    frames = [source.read()]
    while not frames[-1].is_after_gap:  # what was still in the buffers
        frames.append(source.read())
    # On a slow machine some of the new ones are not looked at, because nobody knows yet how old they are.
    assert frames[-1].index == before[-1].index + len(frames) + source.status.drained - drained
    assert "is back after" in warnings.text
    source.close()
    again[0].end()
