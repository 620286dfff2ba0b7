"""A source in a process of its own: what comes through, and drivers that hang, die and come back. A pipeline and a V4L2
capture are acted in the child; real pipelines are in tests/streaming."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from brixel_edge.errors import SourceError, SpecError
from brixel_edge.machine import child_process
from brixel_edge.machine.memory import MIB
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.sources import child, opening
from brixel_edge.runtimes.sources.child import ChildSource
from brixel_edge.runtimes.sources.frames import memory_of
from brixel_edge.runtimes.sources.opening import open_source
from brixel_edge.runtimes.stream.policies import parse_policy
from brixel_edge.runtimes.stream.stream import Stream

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="V4L2 and CSI cameras are Linux's")

ACTED = """
import json, os, sys, time
import cv2
import numpy as np
from brixel_edge.errors import SourceError
from brixel_edge.runtimes.sources import camera, capture, source_process
from brixel_edge.runtimes.sources.frames import Frame

class Script:
    def __init__(self, steps):
        self.steps, self.index = steps, 0
    def next(self):
        step = self.steps.pop(0) if self.steps else "end"
        if step == "hang": time.sleep(1000)
        if step == "die": os.kill(os.getpid(), 9)
        if step == "refuse": raise SourceError("the pipeline ended: rtsp://me:secret@host is busy", kind="refused")
        if step.startswith("wait"):
            time.sleep(float(step[4:]))
            return self.next()
        self.index += 1
        time.sleep(0.02)
        return None if step == "end" else int(step)

class Pipeline:
    is_live, fps, description = True, None, "gst:acted"
    def __init__(self, gst, pipeline, text):
        self.script = Script(text.split(":", 1)[1].split())
    def read(self):
        value = self.script.next()
        if value is None: return None
        image = np.full((6, 2 + value, 3), value, np.uint8)
        return Frame(image=image, index=0, t_capture_s=time.monotonic(), t_media_s=0.0, capture_s=0.0,
                     t_stream_s=float(value))

class Driver:
    # The scripts of one opening after the other are in a file; what is left of it is for the next process.
    def __init__(self, target, backend, parameters):
        assert (target, backend) == (sys.argv[3], cv2.CAP_V4L2)
        with open(sys.argv[4]) as file: scripts = json.load(file)
        with open(sys.argv[4], "w") as file: json.dump(scripts[1:], file)
        self.script = Script(scripts[0].split() if scripts else ["none"])
        self.is_open = self.script.steps[:1] != ["none"]
        if self.script.steps[:1] == ["hang"]: self.script.next()
    def isOpened(self): return self.is_open
    def grab(self):
        self.value = self.script.next()
        return self.value is not None
    def retrieve(self): return True, np.full((48, 64, 3), self.value, np.uint8)
    def set(self, key, value): pass
    def get(self, key):
        return {cv2.CAP_PROP_FPS: 50.0, cv2.CAP_PROP_FRAME_WIDTH: 64.0, cv2.CAP_PROP_FRAME_HEIGHT: 48.0}.get(key, 0.0)
    def getBackendName(self): return "V4L2"
    def release(self): pass

def load():
    time.sleep(float(os.environ.get("LOADING_S", 0)))
    return "gst"

source_process.PipelineSource, source_process.load_gstreamer = Pipeline, load
camera.check_device = lambda address: None
capture.cv2.VideoCapture = Driver
source_process.main()
"""


@pytest.fixture
def acted(monkeypatch, tmp_path):
    """The child runs scripts of steps instead of a pipeline or a driver; gives the processes."""
    popen = subprocess.Popen
    started = []

    def start(command, **options):
        code = [sys.executable, "-c", ACTED, *command[3:], "/dev/video7", str(tmp_path / "scripts.json")]
        started.append(popen(code, **options))
        return started[-1]

    monkeypatch.setattr(child_process.subprocess, "Popen", start)
    monkeypatch.setattr(child, "_PAUSE_S", 1000.0)
    monkeypatch.setattr(opening, "check_device", lambda address: None)
    yield started
    assert all(process.poll() is not None for process in started), "a process is left"


@pytest.fixture
def driver(acted, tmp_path):
    """driver(*scripts) gives the address of a camera whose driver follows them, one at each opening."""

    def write(*scripts):
        (tmp_path / "scripts.json").write_text(json.dumps(scripts))
        return "7"

    return write


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_frames_come_through_shared_memory(acted):
    source = ChildSource("gst:7 8 9 end", reconnect_s=1)
    frames = [source.read() for _ in range(3)]
    assert [frame.image.shape for frame in frames] == [(6, 9, 3), (6, 10, 3), (6, 11, 3)]
    for value, frame in zip((7, 8, 9), frames, strict=True):
        assert (frame.image == value).all()
        assert 0 <= time.monotonic() - frame.t_capture_s < 60
        assert frame.t_stream_s == value
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert source.read() is None
    source.close()
    assert acted[0].returncode is not None


def test_pauses_between_new_processes_double(acted, monkeypatch):
    source = ChildSource("gst:7 die", reconnect_s=1000)
    pauses = []

    def wait(pause_s):
        pauses.append(pause_s)
        return len(pauses) == 8

    def fail():
        raise SourceError("not there", kind="not found")

    assert source.read() is not None
    monkeypatch.setattr(source, "_opened", fail)
    monkeypatch.setattr(source._stop, "wait", wait)
    assert source.read() is None
    assert pauses == [0.25, 0.5, 1, 2, 4, 5, 5, 5]
    source.close()


def test_a_library_that_loads_slowly_is_no_slow_source(acted, monkeypatch):
    """GStreamer's first start on a machine took over 10 s, and was killed and begun again until it was given up."""
    monkeypatch.setenv("LOADING_S", "1.5")
    monkeypatch.setattr(child, "_OPEN_S", 1.0)
    source = ChildSource("gst:7 end", reconnect_s=1)
    frame = source.read()
    assert frame is not None and (frame.image == 7).all()
    assert (len(acted), source.status.reconnects) == (1, 0)
    source.close()


def test_a_library_that_never_loads_is_given_up(acted, monkeypatch):
    monkeypatch.setenv("LOADING_S", "1000")
    monkeypatch.setattr(child, "_LOAD_S", 0.5)
    with pytest.raises(SourceError, match="gave nothing for"):
        ChildSource("gst:7 end", reconnect_s=1)


def test_a_camera_says_what_it_is_and_what_it_takes(driver, acted):
    before = descriptors()
    source = open_source(driver("7 8 9"))
    assert isinstance(source, ChildSource)
    assert (source.description, source.fps) == ("camera 7 = /dev/video7 (64x48, 50 fps, V4L2)", 50.0)
    memory = memory_of(source)
    # Three slots, and what a pipeline takes for as many.
    assert (memory.frame_bytes, memory.own_bytes) == (3 * 48 * 64, 6 * 3 * 48 * 64)
    status = Path(f"/proc/{acted[0].pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
    assert 10 * MIB < memory.process_bytes <= peak
    assert (source.read().image == 7).all()
    source.close()
    source.close()
    assert descriptors() == before


@pytest.mark.parametrize("fault", ["hang", "die"])
def test_a_process_that_hangs_or_dies_is_replaced(acted, monkeypatch, fault):
    monkeypatch.setattr(child, "_SILENCE_S", 0.5)
    source = ChildSource(f"gst:7 {fault}", reconnect_s=60)
    frames = [source.read() for _ in range(2)]
    assert [frame.is_after_gap for frame in frames] == [False, True]
    assert (source.status.reconnects, source.status.failure) == (1, None)
    assert len(acted) == 2
    assert acted[0].returncode == -9
    source.close()


@pytest.mark.parametrize(
    ("scripts", "kind"),
    [(("7 hang", "8 wait1000"), "timeout"), (("7 hang", "hang", "8 wait1000"), "timeout"),
     (("7 die", "none", "8 wait1000"), "refused"), (("7 end", "end", "8 wait1000"), "end")],
    ids=["hangs", "hangs in opening", "is taken", "is without pictures"],
)  # fmt: skip
def test_a_stream_of_a_wedged_driver_reconnects_and_stops(driver, acted, monkeypatch, graph, warnings, scripts, kind):
    monkeypatch.setattr(child, "_SILENCE_S", 0.5)
    # A new process has libraries to load, on a machine that may be busy; the driver of this script hangs longer.
    monkeypatch.setattr(child, "_OPEN_S", 6.0)
    monkeypatch.setattr(child, "_FIRST_PAUSE_S", 0.3)
    seen = set()
    with open_model(graph, backend="ort", threads=1) as model:
        stream = Stream(model, open_source(driver(*scripts), reconnect_s=60), policy=parse_policy("latest"))
        over = threading.Event()

        def watch():
            while not over.wait(0.02):
                health = stream.health()["sources"][0]
                seen.add((health["state"], health["reason"]))

        observer = threading.Thread(target=watch)
        observer.start()
        results = iter(stream)
        maps = [next(results).features for _ in range(2)]
        over.set()
        observer.join()
        health = stream.health()
        stream.close()
        # Within its grace, although the driver hangs.
        assert not [thread.name for thread in threading.enumerate() if thread.name == "brixel-reader"]
    assert [int(fm.frame_bgr[0, 0, 0]) for fm in maps] == [7, 8]
    assert [fm.is_after_gap for fm in maps] == [False, True]
    assert {reason for state, reason in seen if state == "reconnecting"} & {"timeout", "end", kind}
    assert (health["sources"][0]["reconnects"], health["gaps"]) == (1, 1)
    assert health["frames_in"] == health["delivered"] + health["dropped"] + health["waiting"]
    assert len(acted) == len(scripts)
    assert "is lost" in warnings.text
    assert "is back after" in warnings.text


def test_a_driver_that_hangs_in_opening_is_refused_in_time(driver, monkeypatch):
    monkeypatch.setattr(child, "_OPEN_S", 0.5)
    with pytest.raises(SourceError, match="7 gave nothing for 0 s") as raised:
        open_source(driver("hang"))
    assert raised.value.kind == "timeout"


def test_a_camera_that_does_not_open_is_refused_with_its_own_words(driver):
    with pytest.raises(
        SourceError, match=r"^camera 7 = /dev/video7 does not open: it is perhaps used by another"
    ) as raised:
        open_source(driver("none"))
    assert raised.value.kind == "refused"


def test_a_camera_that_stays_away_is_lost_for_good(driver):
    source = open_source(driver("7 end", "none", "none"), reconnect_s=0.01)
    source.read()
    with pytest.raises(SourceError, match=r"is perhaps used by another .*lost for 0 s") as raised:
        source.read()
    assert raised.value.kind == "refused"
    source.close()


def test_what_the_child_warns_of_is_in_our_log(driver, warnings):
    open_source(f"{driver('7 wait1000')}?width=1280").close()
    assert "did not take the mode that was asked for; it gives 64x48" in warnings.text


def test_what_cannot_be_is_refused_without_a_process(acted):
    with pytest.raises(SpecError, match="camera mode 'size'"):
        open_source("7?size=1")
    assert acted == []


def test_a_wait_is_interrupted(acted):
    source = ChildSource("gst:7 hang", reconnect_s=20)
    source.read()
    threading.Timer(0.2, source.interrupt).start()
    assert source.read() is None
    source.close()
    assert acted[0].returncode == -9


def test_frames_that_nobody_took_are_counted_and_old_ones_thrown_away(driver, monkeypatch):
    source = open_source(driver(f"{' '.join(str(value) for value in range(1, 21))} {4 * 'wait2 100 '} wait1000"))
    time.sleep(1.5)  # a model is loaded: 3 wait in the slots, 17 found none
    monkeypatch.setattr(child, "_PAUSE_S", 0.2)
    frame = source.read()
    assert (frame.image == 100).all()
    assert frame.index == source.status.drained >= 20
    source.close()


def test_a_pipeline_that_ended_in_a_pause_still_gives_its_last_frame(acted, monkeypatch):
    source = ChildSource("gst:8 8 8 end", reconnect_s=1)
    acted[0].wait(30)
    monkeypatch.setattr(child, "_PAUSE_S", 0.0)
    frame = source.read()
    assert (frame.image == 8).all()
    assert (frame.index, source.status.drained) == (2, 2)
    assert source.read() is None
    source.close()


def test_an_error_of_the_child_keeps_its_kind_and_loses_its_password(acted):
    with pytest.raises(SourceError, match=r"rtsp://\*\*\*@host is busy") as raised:
        ChildSource("gst:refuse", reconnect_s=1)
    assert raised.value.kind == "refused"
    assert acted[0].returncode is not None


def test_the_address_is_in_no_argument(acted, monkeypatch):
    commands = []
    start = child_process.subprocess.Popen
    monkeypatch.setattr(
        child_process.subprocess, "Popen", lambda command, **o: commands.append(command) or start(command, **o)
    )
    source = ChildSource("gst:7 end", reconnect_s=1)
    source.close()
    assert not any("7 end" in part for part in commands[0])
    assert len(commands[0]) == 5


def test_a_process_that_even_a_kill_does_not_end_is_left_behind(acted, monkeypatch, warnings):
    """In the kernel, inside a driver: it must hold none of our threads."""
    source = ChildSource("gst:7 hang", reconnect_s=1)
    process = acted[0]
    wait = process.wait

    def never(timeout=None):
        assert timeout is not None
        raise subprocess.TimeoutExpired("child", timeout)

    monkeypatch.setattr(process, "wait", never)
    source.close()
    assert f"its process ({process.pid}) hangs in the kernel and is left behind" in warnings.text
    wait(30)


def test_the_child_ends_with_its_parent(tmp_path):
    """Whatever its main thread hangs in."""
    code = (
        "import os, sys\nfrom brixel_edge.machine import child_process\n"
        "from brixel_edge.runtimes.sources import child\n"
        f"popen = child_process.subprocess.Popen\nACTED = {ACTED!r}\n"
        "child_process.subprocess.Popen = lambda command, **options: popen([sys.executable, '-c', ACTED, *command[3:], "
        "'/dev/video7', 'none'], **options)\n"
        "source = child.ChildSource('gst:7 hang', 1)\nprint(source._child.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    pid = int(ended.stdout)
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if state != "Z":
                time.sleep(0.05)
                continue
        return
    os.kill(pid, 9)
    raise AssertionError("the child outlived its parent")
