"""Pipelines as strings, and a child process that hangs, dies and comes back; the pipelines themselves are in
tests/streaming."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest

from brixel_edge.errors import SourceError, SpecError
from brixel_edge.runtimes.sources import child
from brixel_edge.runtimes.sources.child import ChildSource
from brixel_edge.runtimes.sources.gstreamer import pipeline_from_address

TAIL = "videoconvert ! video/x-raw,format=BGR ! appsink name=brixel drop=true max-buffers=1 sync=false"


@pytest.mark.parametrize(
    ("address", "pipeline"),
    [
        (
            "csi:1?width=1920&height=1080&fps=60",
            "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1 ! "
            f"nvvidconv ! video/x-raw,format=BGRx ! {TAIL}",
        ),
        (
            "csi:0",
            "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 ! "
            f"nvvidconv ! video/x-raw,format=BGRx ! {TAIL}",
        ),
        ("gst:videotestsrc is-live=true", f"videotestsrc is-live=true ! {TAIL}"),
        ("gst: videotestsrc ! appsink", f"videotestsrc ! {TAIL}"),
        ("gst:videotestsrc ! ", f"videotestsrc ! {TAIL}"),
    ],
)
def test_an_address_becomes_a_pipeline(address, pipeline):
    # Spaces where an appsink was cut out do not matter to GStreamer.
    assert " ".join(pipeline_from_address(address).split()) == pipeline


@pytest.mark.parametrize("text", ["gst:", "gst: ! ", "csi:", "csi:front", "csi:0?width=wide", "csi:0?size=1"])
def test_what_is_no_pipeline_is_refused(text):
    with pytest.raises(SpecError, match=r"has no pipeline|is no CSI camera; for instance csi:0\?width"):
        pipeline_from_address(text)


ACTED = """
import os, sys, time
import numpy as np
import brixel_edge.runtimes.sources.gstreamer as gstreamer
from brixel_edge.errors import SourceError
from brixel_edge.runtimes.sources.frames import Frame
class Acted:
    def __init__(self, text):
        self.steps = text.split(":", 1)[1].split()
        self.index = 0
    def read(self):
        step = self.steps.pop(0)
        if step == "hang": time.sleep(1000)
        if step == "die": os.kill(os.getpid(), 9)
        if step == "end": return None
        if step == "refuse": raise SourceError("the pipeline ended: rtsp://me:secret@host is busy", kind="refused")
        self.index += 1
        time.sleep(0.02)
        return Frame(image=np.full((6, 8 + self.index, 3), int(step), np.uint8), index=0, t_capture_s=time.monotonic(),
                     t_media_s=0.0, capture_s=0.0, t_stream_s=float(step))
gstreamer.PipelineSource = Acted
from brixel_edge.runtimes.sources import child
child.main()
"""


@pytest.fixture
def acted(monkeypatch):
    """The child runs a script of steps instead of a pipeline."""
    popen = child.subprocess.Popen
    started = []

    def start(command, **options):
        started.append(popen([sys.executable, "-c", ACTED, *command[3:]], **options))
        return started[-1]

    monkeypatch.setattr(child.subprocess, "Popen", start)
    return started


def test_frames_come_through_shared_memory(acted):
    source = ChildSource("gst:7 8 9 end", reconnect_s=1)
    frames = [source.read() for _ in range(3)]
    assert [frame.image.shape for frame in frames] == [(6, 9, 3), (6, 10, 3), (6, 11, 3)]
    for value, frame in zip((7, 8, 9), frames, strict=True):
        assert (frame.image == value).all()
        assert 0 <= time.monotonic() - frame.t_capture_s < 5
        assert frame.t_stream_s == value
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert source.read() is None
    source.close()
    assert acted[0].returncode is not None


@pytest.mark.parametrize("fault", ["hang", "die"])
def test_a_process_that_hangs_or_dies_is_replaced(acted, monkeypatch, fault):
    monkeypatch.setattr(child, "_SILENCE_S", 0.5)
    source = ChildSource(f"gst:7 {fault}", reconnect_s=20)
    frames = [source.read() for _ in range(2)]
    assert [frame.is_after_gap for frame in frames] == [False, True]
    assert (source.status.reconnects, source.status.failure) == (1, None)
    assert len(acted) == 2
    assert acted[0].returncode == -9
    source.close()


def test_a_wait_is_interrupted(acted):
    source = ChildSource("gst:7 hang", reconnect_s=20)
    source.read()
    threading.Timer(0.2, source.interrupt).start()
    assert source.read() is None
    source.close()
    assert acted[0].returncode == -9


def test_an_error_of_the_child_keeps_its_kind_and_loses_its_password(acted):
    with pytest.raises(SourceError, match=r"rtsp://\*\*\*@host is busy") as raised:
        ChildSource("gst:refuse", reconnect_s=1)
    assert raised.value.kind == "refused"
    assert acted[0].returncode is not None


def test_the_address_is_in_no_argument(acted, monkeypatch):
    commands = []
    start = child.subprocess.Popen
    monkeypatch.setattr(child.subprocess, "Popen", lambda command, **o: commands.append(command) or start(command, **o))
    source = ChildSource("gst:7 end", reconnect_s=1)
    source.close()
    assert not any("7 end" in part for part in commands[0])
    assert np.asarray(commands[0]).size == 4
