"""brixel-run --preview: a run with its page, as a robot's user types it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest
import tiny_model

from brixel_edge.commands.run import main

PROGRAM = [sys.executable, "-m", "brixel_edge.commands.run"]


class PreviewedRun:
    """A process of brixel-run on the demo, and its page."""

    def __init__(self, graph, folder, *arguments):
        command = [*PROGRAM, str(graph), "--headless", "--quiet", "--backend", "ort", "--json", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        )  # fmt: skip
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if found := re.search(r"preview: (http://\S+)", line):
                self.url = found[1]
                return
        raise AssertionError("".join(lines))

    def get(self, path):
        base, _, token = self.url.partition("?token=")
        request = urllib.request.Request(base + path, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.headers, answer.read()

    def state(self, condition):
        """The state as soon as it is as wanted."""
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            state = json.loads(self.get("state")[1])
            if condition(state):
                return state
            time.sleep(0.1)
        raise AssertionError(state)

    def picture(self, after=0):
        headers, body = self.get(f"frame.jpg?after={after}&viewer=test")
        return int(headers["X-Frame"]), cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).astype(int)

    def post(self, record):
        body = json.dumps(record).encode()
        request = urllib.request.Request(f"{self.url}requests", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status

    def end(self):
        self.process.send_signal(signal.SIGINT)
        out, errors = self.process.communicate(timeout=60)
        return self.process.returncode, out, errors


@pytest.fixture
def graph(tmp_path):
    return tiny_model.save(tmp_path / "tiny.onnx", bias=0.0)


@pytest.fixture
def previewed(graph, tmp_path):
    """previewed(*arguments) starts a run; none is left."""
    started = []

    def start(*arguments):
        started.append(PreviewedRun(graph, tmp_path, *arguments))
        return started[-1]

    yield start
    for run in started:
        run.process.kill()
        run.process.communicate()


def test_the_page_shows_the_run_and_takes_clicks(previewed):
    run = previewed("--source", "test:pattern", "--preview", "127.0.0.1:0")
    run.state(lambda state: state["processed"] > 3)
    number, colours = run.picture()
    later, moved = run.picture(number)
    assert later > number
    side = colours.shape[1] // 2
    assert np.abs(moved[:, :side] - colours[:, :side]).max() > 0
    assert run.post({"point": {"x": 0.5, "y": 0.5}}) == 200
    state = run.state(lambda state: state["prototypes"])
    assert (state["view"], state["current"]) == ("heat", "object")
    assert b"brixel_prototype_score" in run.get("metrics")[1]
    assert json.loads(run.get("healthz")[1])["state"] in ("running", "degraded")
    code, out, errors = run.end()
    assert code == 0, errors
    assert "found" in json.loads(out)


def test_who_comes_late_sees_the_last_frame_though_none_follows(previewed):
    run = previewed("--source", "test:pattern?fps=0.01", "--preview", "127.0.0.1:0")
    run.state(lambda state: state["processed"] > 0)
    time.sleep(0.5)
    number, colours = run.picture()
    assert colours.std() > 0
    assert run.post({"point": {"x": 0.5, "y": 0.5}}) == 200
    later, heat = run.picture(number)
    side = colours.shape[1] // 2
    assert later > number
    # The map became a heat map, over a frame that stayed.
    parts = [np.abs(heat - colours)[:, part].mean() for part in (slice(side, None), slice(side))]
    assert parts[0] > 20 and parts[0] > parts[1], parts
    assert run.end()[0] == 0


def test_others_need_the_printed_token(previewed):
    run = previewed("--source", "demo:", "--preview", "0.0.0.0:0")
    assert "?token=" in run.url
    run.url = run.url.replace("0.0.0.0", "127.0.0.1")
    assert run.state(lambda state: state["processed"] > 0)
    run.url = run.url.partition("?")[0] + "?token=wrong"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        run.get("state")
    assert run.end()[0] == 0


def test_a_model_that_was_taken_for_an_address_is_told(graph, capsys):
    assert main(["--preview", str(graph), "--headless"]) == 2
    assert "is not HOST:PORT" in capsys.readouterr().err
