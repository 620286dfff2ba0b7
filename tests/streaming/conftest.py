"""The fault matrix of streams: a camera in a process of its own, a wire that misbehaves, a limit on every test.

Run with `make test-stream`, which installs GStreamer's RTSP server.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny_model
from busy import BOUND_S, Heartbeat, allowed, children, descriptors
from wire import Wire

from brixel_edge.errors import SourceError
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.sources.clock_picture import read_time
from brixel_edge.runtimes.sources.opening import open_source
from brixel_edge.runtimes.stream.policies import parse_policy
from brixel_edge.runtimes.stream.stream import Stream

LIMIT_S = 90
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def limit():
    """A test that hangs fails."""

    limit_s = round(allowed(LIMIT_S))

    def end(*_):
        raise TimeoutError(f"not done within {limit_s} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(limit_s)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """What libraries open once, at their first use, they may keep."""
    graph = tiny_model.save(tmp_path_factory.mktemp("warm") / "tiny.onnx")
    with open_model(graph, backend="ort") as model, Stream(model, open_source("test:pattern")) as results:
        next(iter(results))
    with pytest.raises(SourceError):
        open_source(f"rtsp://127.0.0.1:{free_port()}/none")


@pytest.fixture(autouse=True)
def nothing_leaked(warm):
    """No thread of ours, no descriptor and no process is left behind."""
    before, started = descriptors(), children()
    yield
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        ours = [thread.name for thread in threading.enumerate() if thread.name.startswith("brixel-")]
        left = [child for child in children() if child not in started]
        if not ours and not left and descriptors() <= before + 1:
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: {ours}, {left}, {descriptors() - before} descriptors")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Camera:
    """The RTSP server of this folder."""

    def __init__(self, *arguments):
        self.port = free_port()
        self.arguments = arguments
        self.start()

    def start(self, *arguments):
        given = arguments or self.arguments
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "rtsp_server.py"), str(self.port), *given], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def url(self, login="", port=None, path="clock"):
        return f"rtsp://{login}127.0.0.1:{port or self.port}/{path}"


@pytest.fixture
def camera():
    """Starts cameras: camera(*arguments)."""
    started = []

    def start(*arguments):
        started.append(Camera(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def wire():
    """Lays wires: wire(port) is a proxy to it."""
    laid = []

    def lay(port):
        laid.append(Wire(port))
        return laid[-1]

    yield lay
    for one in laid:
        one.close()


class Watched:
    """A stream whose every frame's true age is read from its pixels.

    Attributes:
        rows: (seconds since the start, true age, said age, the map) of each result.
        states: the states that the source went through, in order.
    """

    def __init__(self, model, url, reconnect_s=30.0, policy="max-age=1000"):
        self.stream = Stream(model, open_source(url, reconnect_s), policy=parse_policy(policy))
        self.results = iter(self.stream)
        self.start_s = time.monotonic()
        self.rows, self.states = [], []
        self.heartbeat = Heartbeat()
        self._over = threading.Event()
        self._observer = threading.Thread(target=self._observe, daemon=True)
        self._observer.start()

    def _observe(self):
        while not self._over.wait(0.02):
            state = self.stream.health()["state"]
            if not self.states or self.states[-1] != state:
                self.states.append(state)

    def until(self, condition, work_s=0.0):
        """Take results until `condition(row)`; each is checked."""
        while True:
            features = next(self.results).features
            now_s = time.monotonic()
            shown_s = read_time(features.frame_bgr)
            assert shown_s is not None, f"frame {features.frame_index} shows no time"
            row = (now_s - self.start_s, now_s - shown_s, now_s - features.t_capture_s, features)
            self.rows.append(row)
            late_s = self.heartbeat.worst_s
            assert row[1] - row[2] < BOUND_S + late_s, (
                f"frame {features.frame_index}: {row[1]:.3f} s old, said {row[2]:.3f} s; threads {late_s:.3f} s late"
            )
            counts = self.stream.health()
            assert counts["frames_in"] == counts["delivered"] + counts["dropped"] + counts["waiting"]
            if condition(row):
                return row
            time.sleep(work_s)

    def for_s(self, seconds, work_s=0.0):
        end_s = time.monotonic() + seconds
        return self.until(lambda _: time.monotonic() > end_s, work_s)

    def until_gap(self):
        return self.until(lambda row: row[3].is_after_gap)

    def close(self):
        self._over.set()
        self._observer.join()
        self.heartbeat.stop()
        self.stream.close()

    @property
    def order(self):
        """The states in order, without `degraded`, which a busy machine and a burst after a stall may add anywhere."""
        states = [state for state in self.states if state != "degraded"]
        return [state for number, state in enumerate(states) if number == 0 or state != states[number - 1]]

    @property
    def source(self):
        """The health of the source."""
        return self.stream.health()["sources"][0]


@pytest.fixture
def watch(tmp_path):
    """Opens watched streams: watch(url)."""
    opened = []
    with open_model(tiny_model.save(tmp_path / "tiny.onnx"), backend="ort", threads=1) as model:

        def start(url, **settings):
            opened.append(Watched(model, url, **settings))
            return opened[-1]

        yield start
        for one in opened:
            one.close()
