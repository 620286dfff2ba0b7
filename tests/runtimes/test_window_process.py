"""A window in a process of its own: what the run does when its viewer is closed, dies, hangs or never comes. The viewer
is acted here; a real one loses a real display in tests/streaming."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from brixel_edge.commands.run import main
from brixel_edge.errors import BackendMissing
from brixel_edge.machine import child_process
from brixel_edge.runtimes.pictures import window, window_process
from brixel_edge.runtimes.pictures.events import Click, KeyPress
from brixel_edge.runtimes.pictures.window_process import WindowProcess

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the window is in our process")

# Steps of the window: how many pictures it shows before something happens.
ACTED = """
import os, sys, time
from brixel_edge.errors import BackendMissing
from brixel_edge.runtimes.pictures import viewer
from brixel_edge.runtimes.pictures.events import Click, KeyPress
count, what, record = int(sys.argv[2]), sys.argv[3], sys.argv[4]
class Window:
    is_open, is_lost, shown, events = True, False, 0, []
    def show(self, picture):
        with open(record, "a") as file: print(*picture.shape, picture[0, 0, 0], file=file)
        self.shown += 1
        if self.shown < count: return
        if what == "click": self.events = [Click(x=3.5, y=4.0, is_negative=True), KeyPress(key="n")]
        if what == "close": self.is_open = False
        if what == "lose": self.is_lost = True
        if what == "die": os._exit(1)
        if what == "hang": time.sleep(1000)
    def poll(self): pass
    def take_events(self):
        events, self.events = self.events, []
        return events
def open_here(title):
    if what == "none": raise BackendMissing(f"couldn't connect to display :7 for {title}")
    return Window()
viewer.open_window = open_here
viewer.main()
"""


@pytest.fixture
def viewer(monkeypatch, tmp_path):
    """viewer(count, what) lets the next windows act so; gives the started processes and the file of what was shown."""
    popen = subprocess.Popen
    started = []
    shown = tmp_path / "shown.txt"
    shown.touch()

    def act(count, what):
        def start(command, **options):
            started.append(popen([sys.executable, "-c", ACTED, *command[3:], str(count), what, str(shown)], **options))
            return started[-1]

        monkeypatch.setattr(child_process.subprocess, "Popen", start)
        monkeypatch.setenv("DISPLAY", ":7")
        monkeypatch.setattr(window_process, "has_opencv_gui", lambda: True)
        return started, shown

    yield act
    assert all(process.poll() is not None for process in started), "a viewer is left"
    assert not [thread for thread in threading.enumerate() if thread.name == "brixel-window"]


def until(condition, limit_s=30):
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def picture(level):
    return np.full((4, 6, 3), level, np.uint8)


def test_pictures_are_shown_in_order_and_closing_it_is_known(viewer):
    _, shown = viewer(3, "close")
    opened = window_process.open_viewer("title")
    assert isinstance(opened, WindowProcess)
    for level in (1, 2, 3):
        opened.show(picture(level))
        until(lambda level=level: shown.read_text().endswith(f"4 6 3 {level}\n"))
    until(lambda: opened.poll() or not opened.is_open)
    assert not opened.is_lost
    opened.close()
    opened.close()
    assert shown.read_text() == "4 6 3 1\n4 6 3 2\n4 6 3 3\n"


def test_clicks_and_keys_come_from_the_viewer(viewer):
    viewer(1, "click")
    opened = WindowProcess("title")
    opened.show(picture(1))
    events = []
    until(lambda: opened.poll() or events.extend(opened.take_events()) or len(events) == 2)
    assert events == [Click(x=3.5, y=4.0, is_negative=True), KeyPress(key="n")]
    assert opened.take_events() == []
    opened.close()


@pytest.mark.parametrize("what", ["die", "lose"])
def test_a_window_that_goes_with_its_display_is_lost_and_not_closed(viewer, warnings, what):
    viewer(1, what)
    opened = WindowProcess("title")
    opened.show(picture(1))
    until(lambda: opened.poll() or opened.is_lost)
    assert opened.is_open
    assert "the window is gone, perhaps with its display; the run goes on without it" in warnings.text
    for _ in range(3):
        opened.show(picture(2))
    assert warnings.text.count("the window is gone") == 1
    opened.close()


def test_a_display_that_cannot_be_reached_is_said(viewer, warnings):
    viewer(1, "none")
    opened = WindowProcess("a title")
    until(lambda: opened.poll() or opened.is_lost)
    assert "no window: couldn't connect to display :7 for a title; use --save, or --headless" in warnings.text
    assert warnings.text.count("no window") == 1
    opened.close()


def test_a_viewer_that_hangs_holds_nobody(viewer):
    """Pictures that nobody takes replace each other, and the end does not wait."""
    _, shown = viewer(1, "hang")
    opened = WindowProcess("title")
    opened.show(picture(1))
    until(lambda: shown.read_text())
    large = np.zeros((1000, 1000, 3), np.uint8)  # more than any pipe holds
    for _ in range(50):
        opened.show(large)
    assert opened.is_open
    assert not opened.is_lost
    opened.close()


def run(graph, out, *more):
    source = "test:clock?width=96&height=64"
    return main([str(graph), "--source", source, "--save", str(out), "--backend", "ort", "--quiet", *more])


def frames_in(path):
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


@pytest.mark.parametrize("what", ["die", "hang", "none"])
def test_a_run_goes_on_without_its_viewer_and_its_video_is_whole(viewer, graph, tmp_path, capsys, what):
    _, shown = viewer(2, what)
    out = tmp_path / "out.mp4"
    assert run(graph, out, "--duration", "4") == 0
    captured = capsys.readouterr()
    count = int(captured.out.split("out.mp4 (")[1].split()[0])
    assert count > len(shown.read_text().splitlines()) + 5
    assert frames_in(out) == count
    assert float(re.search(r"processed +\d+ in (\d+\.\d) s", captured.out)[1]) > 3  # of 4
    assert ("without it" in captured.err) == (what == "die")


def test_a_user_who_closes_the_window_ends_the_run(viewer, graph, tmp_path, capsys):
    viewer(2, "close")
    out = tmp_path / "out.mp4"
    assert run(graph, out) == 0
    assert frames_in(out) > 1


def test_the_viewer_s_own_window_names_the_reason(monkeypatch):
    tkinter = pytest.importorskip("tkinter")

    def refuse():
        raise tkinter.TclError("no display name and no $DISPLAY environment variable")

    monkeypatch.setattr(window, "has_opencv_gui", lambda: False)
    monkeypatch.setattr(tkinter, "Tk", refuse)
    with pytest.raises(BackendMissing, match="no display name"):
        window.open_window("title")
