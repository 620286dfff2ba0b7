"""How a run of brixel-run ends: a signal, an engine that hangs, a thread that is not the main one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import cv2
import pytest

from brixel_edge.commands.run import main
from brixel_edge.runtimes.stream import run as run_stream

PROGRAM = [sys.executable, "-m", "brixel_edge.commands.run"]


@pytest.fixture
def graph(graph):
    return str(graph)


def start(*arguments, cwd):
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    )


def wait_for_line(process, part):
    for line in process.stderr:
        if part in line:
            return
    raise AssertionError(f"ended without {part!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_its_table_and_a_whole_video(graph, tmp_path, number):
    out = tmp_path / "out.mp4"
    process = start(graph, "--source", "demo:", "--save", out, cwd=tmp_path)
    wait_for_line(process, " fps ")
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "peak memory" in output
    capture = cv2.VideoCapture(str(out))
    assert capture.read()[0]
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["out.mp4"]
    assert not list(tmp_path.glob(".out*"))


STUCK_ENGINE = """
import sys, threading
from brixel_edge.runtimes import model
def hang(self, fitted, **_):
    print("inside", file=sys.stderr, flush=True)
    threading.Event().wait()
model.Model.features = hang
model.Model.warm_up = lambda self: None
from brixel_edge.commands.run import main
sys.argv[0] = "brixel-run"
sys.exit(main())
"""


def test_a_signal_ends_a_run_whose_engine_hangs(graph, folder, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK_ENGINE, graph, "--source", folder, "--headless"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    wait_for_line(process, "inside")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "processed    0" in output


def test_other_threads_may_run_it(graph, folder, capsys):
    """Signals belong to the main thread; elsewhere a run goes without them."""
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(main([graph, "--source", folder, "--headless", "--frames", "1", "--quiet"]))
    )
    thread.start()
    thread.join(30)
    assert codes == [0]


def test_a_run_waits_for_less_than_a_second_after_a_stop(graph, folder, monkeypatch):
    """The grace that an engine is given, plus one poll, is all that stands between a signal and the table."""
    given = []
    stop = run_stream.EngineThread.stop
    monkeypatch.setattr(
        run_stream.EngineThread, "stop", lambda self, timeout_s: given.append(timeout_s) or stop(self, timeout_s)
    )
    assert main([graph, "--source", folder, "--headless", "--quiet"]) == 0
    assert 0 < sum(given) < 0.8
