"""Faults behind the engine: a slow sink, a disk that fills up, a viewer that is gone. The camera is a real one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import tiny_model
from busy import BOUND_S, Heartbeat, allowed

from brixel_edge.commands.run import main
from brixel_edge.runtimes.pictures.h264_video import H264Video
from brixel_edge.runtimes.pictures.output import Output
from brixel_edge.runtimes.pictures.window import has_opencv_gui
from brixel_edge.runtimes.sources.clock_picture import read_time

pytestmark = pytest.mark.stream


@pytest.fixture
def graph(tmp_path):
    return str(tiny_model.save(tmp_path / "tiny.onnx"))


def frames_in(path):
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


def test_a_slow_sink_gets_fewer_frames_and_no_old_ones(camera, graph, tmp_path, monkeypatch, capsys):
    """Slow for three seconds, then quick: what it gets says its true age, and is young again at once."""
    pytest.importorskip("av")
    rows, heartbeat, begun_s = [], Heartbeat(), []
    write, put = H264Video.write, Output.put

    def slow(self, *given):
        begun_s.append(time.monotonic())
        if begun_s[-1] - begun_s[0] < 3.0:
            time.sleep(0.4)
        write(self, *given)

    def seen(self, features, *given):
        now_s = time.monotonic()
        rows.append((now_s, now_s - read_time(features.frame_bgr), now_s - features.t_capture_s, heartbeat.worst_s))
        put(self, features, *given)

    monkeypatch.setattr(H264Video, "write", slow)
    monkeypatch.setattr(Output, "put", seen)
    out = tmp_path / "out.mp4"
    code = main([graph, "--source", camera().url(), "--save", str(out), "--headless", "--json", "--quiet",
                 "--backend", "ort", "--duration", "8"])  # fmt: skip
    heartbeat.stop()
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert all(true_s - said_s < BOUND_S + late_s for _, true_s, said_s, late_s in rows)
    # One result is being painted and one waits: three turns of the sink.
    assert max(row[1] for row in rows) < 1.0 + allowed(3 * 0.4)
    assert rows[-1][0] - begun_s[0] > 3.0
    assert max(row[1] for row in rows[-5:]) < allowed(0.6)
    assert report["health"]["sources"][0]["entered"].keys() <= {"opening", "running", "degraded", "ended"}
    assert report["frames_in"] == report["processed"] + report["dropped"] + report["waiting"]
    assert report["dropped"] > 40
    assert frames_in(out) == report["processed"] == len(rows)


def test_a_full_disk_ends_a_run_with_its_figures_and_a_whole_video(camera, graph, small_disk, capsys):
    pytest.importorskip("av")
    (small_disk / "other.bin").write_bytes(bytes(1_700_000))
    out = small_disk / "out.mp4"
    assert main([graph, "--source", camera("--size", "640x480").url(), "--save", str(out), "--headless",
                 "--backend", "ort", "--quiet"]) == 2  # fmt: skip
    captured = capsys.readouterr()
    [error] = [line for line in captured.err.splitlines() if line.startswith("brixel-run: error: ")]
    kept = re.search(r"cannot write .*out\.mp4 .*is the disk full\? Its (\d+) frames until then are kept", error)
    assert kept, error
    assert frames_in(out) == int(kept[1]) > 5
    assert re.search(r"^processed +\d+ in", captured.err, re.MULTILINE)
    assert sorted(path.name for path in small_disk.iterdir()) == ["other.bin", "out.mp4"]


@pytest.fixture
def display():
    """A display of its own, and the process that is it."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed: apt install xvfb")
    if not has_opencv_gui() and importlib.util.find_spec("_tkinter") is None:
        pytest.skip("this cv2 has no windows, and Python no tkinter")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1400x900x24", "-nolisten", "tcp"],
        pass_fds=(writing,), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as told:
        number = told.readline().strip()
    yield f":{number}", server
    server.kill()
    server.wait()


def viewer_of(pid):
    """The viewer of a run, once it has its window: it has loaded X."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and b"viewer" in (entry / "cmdline").read_bytes():
                return int(entry.name) if "libX11" in (entry / "maps").read_text() else None
        except (OSError, ValueError, IndexError):
            continue
    return None


def until(condition, seconds):
    end_s = time.monotonic() + allowed(seconds)
    while not (found := condition()):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    return found


def test_a_display_that_dies_ends_no_run(camera, graph, tmp_path, display):
    name, server = display
    out = tmp_path / "out.mp4"
    environment = {**os.environ, "DISPLAY": name}
    environment.pop("WAYLAND_DISPLAY", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "brixel_edge.commands.run", graph, "--source", camera().url(), "--save", str(out),
         "--backend", "ort", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    try:
        viewer = until(lambda: viewer_of(process.pid), 20)
        time.sleep(2.0)  # pictures are shown
        server.kill()
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "the window is gone" in line:
                break
        assert "the window is gone, perhaps with its display; the run goes on without it" in lines[-1], lines
        gone_s = time.monotonic()
        following = [next(line for line in process.stderr if " fps " in line) for _ in range(3)]
        assert time.monotonic() - gone_s < allowed(6.0)
        assert not Path(f"/proc/{viewer}/maps").exists() or not (Path(f"/proc/{viewer}/maps").read_text())
        counts = [int(re.search(r"(\d+) frames", line)[1]) for line in following]
        assert counts[0] < counts[1] < counts[2]
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=allowed(10))
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    report = json.loads(output)
    assert report["health"]["sources"][0]["reconnects"] == 0
    assert report["frames_in"] == report["processed"] + report["dropped"] + report["waiting"]
    assert frames_in(out) == report["processed"] > 10
