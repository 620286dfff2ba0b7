"""Pictures, recordings, windows and the demo's camera."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.pictures import recorder, window, window_process
from brixel_edge.runtimes.pictures.h264_video import H264Video
from brixel_edge.runtimes.pictures.layers import colours_on_frame, pane_size
from brixel_edge.runtimes.pictures.opencv_video import OpenCvVideo
from brixel_edge.runtimes.pictures.painter import Painter
from brixel_edge.runtimes.pictures.png_folder import PngFolder
from brixel_edge.runtimes.pictures.recorder import open_recorder
from brixel_edge.runtimes.pictures.targets import check_target
from brixel_edge.runtimes.sources import demo
from brixel_edge.runtimes.sources.opening import open_source

HAS_AV = importlib.util.find_spec("av") is not None


def features_of(frame, grid=(4, 8), stride=None, offset=(0.0, 0.0)):
    height, width = frame.shape[:2]
    values = np.random.default_rng(0).normal(size=(*grid, 6)).astype(np.float32)
    return FeatureMap(
        values=values,
        stride_px=stride or (height / grid[0], width / grid[1]),
        offset_px=offset,
        frame_size=(height, width),
        t_capture_s=0.0,
        frame_bgr=frame,
    )


def pictures(count, size=(64, 96)):
    """A brightness for each, so that a decoder can tell them."""
    return [np.full((*size, 3), 20 + 20 * number, np.uint8) for number in range(count)]


def test_panes_are_even_and_neither_tiny_nor_huge():
    assert pane_size((720, 1280)) == (360, 640)
    assert pane_size((240, 320)) == (360, 480)
    assert pane_size((3000, 4001)) == (480, 640)
    assert pane_size((2, 4000)) == (2, 640)


def test_colours_lie_over_their_cells():
    frame = np.zeros((40, 80, 3), np.uint8)
    colours = np.arange(32 * 3, dtype=np.uint8).reshape(4, 8, 3)
    shown = colours_on_frame(colours, features_of(frame), (40, 80))
    assert (shown == np.repeat(np.repeat(colours, 10, axis=0), 10, axis=1)).all()


def test_what_the_graph_did_not_see_is_black_and_bars_are_cut_off():
    frame = np.zeros((40, 80, 3), np.uint8)
    colours = np.full((4, 4, 3), 9, np.uint8)
    crop = features_of(frame, grid=(4, 4), stride=(10.0, 10.0), offset=(0.0, 20.0))
    shown = colours_on_frame(colours, crop, (80, 160))  # shown twice as large
    assert (shown[:, 40:120] == 9).all()
    assert (shown[:, :40] == 0).all()
    assert (shown[:, 120:] == 0).all()
    pad = features_of(frame, grid=(4, 4), stride=(20.0, 20.0), offset=(-20.0, 0.0))
    assert (colours_on_frame(colours, pad, (40, 80)) == 9).all()


def test_a_picture_is_the_frame_beside_its_map_over_its_caption():
    frame = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    plain = Painter()(features_of(frame), "model")
    assert plain.shape == (480 + 24, 1280, 3)
    assert (plain[:480, :640] == frame).all()
    assert plain[:480, 640:].std() > 20
    noticed = Painter()(features_of(frame), "model", "untrained")
    assert noticed.shape == (480 + 48, 1280, 3)
    strip = noticed[-24:]
    assert (strip != strip[0, 0]).any()  # something is written there
    assert (noticed[:504] == plain).all()


def test_features_without_their_frame_cannot_be_painted():
    frame = np.zeros((40, 80, 3), np.uint8)
    features = features_of(frame)
    bare = FeatureMap(
        values=features.values, stride_px=(1.0, 1.0), offset_px=(0.0, 0.0), frame_size=(4, 8), t_capture_s=0.0
    )
    with pytest.raises(SpecError, match="do not carry their frame"):
        Painter()(bare, "")


def decoded(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


@pytest.mark.skipif(not HAS_AV, reason="PyAV is not installed")
def test_h264_keeps_each_picture_at_its_time(tmp_path):
    import av

    path = tmp_path / "out.mp4"
    writer = open_recorder(path, fps=None)
    assert isinstance(writer, H264Video)
    times_s = [10.0, 10.1, 10.5, 10.6, 12.0]
    for picture, t_s in zip(pictures(5), times_s, strict=True):
        writer.write(picture, t_s, None)
    assert not path.exists()
    writer.close()
    writer.close()
    assert writer.description == f"{path} (5 frames)"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        shown_s = [float(frame.pts * frame.time_base) for frame in container.decode(video)]
    assert shown_s == pytest.approx([0.0, 0.1, 0.5, 0.6, 2.0], abs=2e-3)
    assert [round(frame.mean() / 20) for frame in decoded(path)] == [1, 2, 3, 4, 5]


def test_without_pyav_it_is_mpeg4_at_a_constant_rate(tmp_path, monkeypatch, warnings):
    monkeypatch.setattr(recorder.importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "out.mp4"
    writer = open_recorder(path, fps=10.0)
    assert isinstance(writer, OpenCvVideo)
    assert "pip install 'brixel-edge[video]'" in warnings.text
    for picture, t_s in zip(pictures(3), [5.0, 5.1, 5.5], strict=True):
        writer.write(picture, t_s, None)
    writer.close()
    brightness = [round(frame.mean() / 20) for frame in decoded(path)]
    assert brightness == [1, 2, 3, 3, 3, 3]  # the gap of 0.4 s is filled


def test_avi_is_written_too(tmp_path):
    writer = open_recorder(tmp_path / "out.avi", fps=10.0)
    for number, picture in enumerate(pictures(3)):
        writer.write(picture, number / 10, None)
    writer.close()
    assert len(decoded(tmp_path / "out.avi")) == 3


@pytest.mark.parametrize("kind", [H264Video, OpenCvVideo])
def test_a_change_of_size_is_scaled_and_an_empty_video_is_none(tmp_path, kind):
    if kind is H264Video and not HAS_AV:
        pytest.skip("PyAV is not installed")
    more = () if kind is H264Video else (10.0,)
    writer = kind(tmp_path / "out.mp4", *more)
    writer.write(pictures(1)[0], 0.0, None)
    writer.write(pictures(2, size=(48, 200))[1], 0.1, None)
    writer.close()
    assert {frame.shape for frame in decoded(tmp_path / "out.mp4")} == {(64, 96, 3)}
    kind(tmp_path / "none.mp4", *more).close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_pngs_are_numbered_and_named(tmp_path):
    writer = open_recorder(tmp_path / "a" / "panels", fps=None)
    assert isinstance(writer, PngFolder)
    first, second = pictures(2)
    writer.write(first, 0.0, None)
    writer.write(second, 1.0, "street.jpg")
    writer.close()
    folder = tmp_path / "a" / "panels"
    assert sorted(path.name for path in folder.iterdir()) == ["000000.png", "000001_street.png"]
    assert (cv2.imread(str(folder / "000001_street.png")) == second).all()
    assert writer.description == f"{folder}/ (2 PNGs)"


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("")
    for name, message in [
        ("nowhere/out.mp4", "folder .*nowhere is not there"),
        ("folder.mp4", "is a folder"),
        ("out.gif", r"\.gif is none of \.mp4, \.mkv, \.mov, \.avi, \.mcap; a name without suffix is a folder of PNGs"),
        ("full", "not an empty folder"),
        ("file", "not an empty folder"),
    ]:
        with pytest.raises(BundleError, match=message):
            check_target(tmp_path / name)
    with pytest.raises(BundleError, match="cannot be made"):
        open_recorder(tmp_path / "file" / "below", None)


def test_a_display_is_looked_for_before_anything_is_touched(monkeypatch):
    monkeypatch.setattr(window.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for name in ("open_window", "WindowProcess", "has_opencv_gui"):
        monkeypatch.setattr(window_process, name, None)  # calling it would be an error
    assert window_process.open_viewer("title") is None
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert window.has_display()


def test_opencv_s_windows_are_read_from_its_build(monkeypatch):
    for text, has in [("    GUI:   NONE\n", False), ("  GUI:           QT5\n    QT: YES", True), ("", False)]:
        monkeypatch.setattr(window.cv2, "getBuildInformation", lambda text=text: text)
        assert window.has_opencv_gui() is has


def test_a_display_that_leads_nowhere_is_said_not_fatal(monkeypatch, warnings):
    pytest.importorskip("_tkinter")
    monkeypatch.setenv("DISPLAY", ":4321")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform != "linux":
        pytest.skip("X11 only")
    if window.has_opencv_gui():
        pytest.skip("this cv2 has windows of its own")
    opened = window_process.open_viewer("title")
    end_s = time.monotonic() + 60
    while not opened.is_lost and time.monotonic() < end_s:
        opened.poll()
        time.sleep(0.05)
    opened.close()
    assert "no window: couldn't connect to display" in warnings.text


WINDOW_CODE = """
import numpy as np, sys, time
from brixel_edge.runtimes.pictures.window import open_window
window = open_window("brixel test")
for level in range(5):
    window.show(np.full((60, 90, 3), 50 * level, np.uint8))
assert window.is_open
window._root.focus_force()
window.poll()
window._root.event_generate("<Escape>")
window.poll()
assert not window.is_open
window.show(np.zeros((60, 90, 3), np.uint8))
window.close()
window.close()
print("closed")
"""


def test_a_real_window_opens_shows_and_closes_on_escape(tmp_path):
    import shutil

    if shutil.which("xvfb-run") is None or importlib.util.find_spec("_tkinter") is None:
        pytest.skip("xvfb-run or tkinter is not installed")
    if window.has_opencv_gui():
        pytest.skip("this cv2 has windows of its own")
    command = ["xvfb-run", "-a", sys.executable, "-c", WINDOW_CODE]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (run.returncode, run.stdout) == (0, "closed\n"), run.stderr


def test_the_demo_is_a_camera_in_real_time():
    source = open_source("demo:")
    assert source.is_live
    start = time.monotonic()
    frames = [source.read() for _ in range(7)]
    assert time.monotonic() - start >= 6 / 30
    assert frames[0].image.shape == (480, 640, 3)
    stamps = [frame.t_capture_s for frame in frames]
    assert np.diff(stamps).min() > 0
    source.interrupt()
    assert source.read() is None


def test_the_demo_moves_slowly_over_all_its_photographs():
    source = demo.DemoSource()
    one, two, last = (source.picture(index).astype(int) for index in (60, 61, 119))
    assert 0.1 < np.abs(one - two).mean() < 15
    assert np.abs(one - last).mean() > np.abs(one - two).mean()
    next_photograph = source.picture(121).astype(int)
    assert np.abs(next_photograph - last).mean() > 25
    assert (source.picture(60) == one).all()
    around = source.picture(120 * len(demo.PHOTOGRAPHS))
    assert (around == source.picture(0)).all()


def test_every_photograph_of_the_demo_is_small_and_has_its_licence(monkeypatch, tmp_path):
    there = {path.name for path in demo.FOLDER.iterdir()}
    assert there == {*demo.PHOTOGRAPHS, "LICENCES.txt"}
    told = (demo.FOLDER / "LICENCES.txt").read_text(encoding="utf-8")
    for name in demo.PHOTOGRAPHS:
        assert (demo.FOLDER / name).stat().st_size <= 60_000
        assert re.search(rf"^{name} +[^;]*; (CC0|public domain)$", told, re.MULTILINE), name
    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    with pytest.raises(BundleError, match="has none of the demo's photographs; install brixel-edge again"):
        open_source("demo:")
