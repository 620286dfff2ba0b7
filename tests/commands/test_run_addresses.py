"""What brixel-run makes of an address: refused when empty, and never printed with its password."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from brixel_edge.commands.run import main

PROGRAM = [sys.executable, "-m", "brixel_edge.commands.run"]
ADDRESSES = [
    "rtsp://user:secret@127.0.0.1:{port}/1", "http://user:secret@127.0.0.1:{port}/x.mp4",
    "rtsp://user:sec/ret@127.0.0.1:{port}/1", "rtsp://user:sec@ret@127.0.0.1:{port}/1",
    "http://127.0.0.1:{port}/v?user=user&password=secret", "http://user:secret@127.0.0.1:{port}/live",
]  # fmt: skip
SECRETS = ("secret", "sec/ret", "sec@ret", "sec%", "ret@", "user:")


@pytest.fixture
def silent_port():
    """A server that takes connections and says nothing."""
    yield from _silent_server(threading.Event())


@pytest.fixture
def called():
    """Whether somebody connected to `watched_port`."""
    return threading.Event()


@pytest.fixture
def watched_port(called):
    """A silent server that tells of the first connection."""
    yield from _silent_server(called)


def _silent_server(called):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def accept():
            try:
                while True:
                    held.append(listener.accept()[0])
                    called.set()
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
    for connection in held:
        connection.close()


@pytest.mark.parametrize("path", ["x.mp4", "live"])
def test_a_dead_server_is_refused_in_time(graph, silent_port, path, tmp_path):
    """In 5 s, where OpenCV alone waits for 30; the bound leaves room for a busy machine's imports."""
    ended = subprocess.run(
        [*PROGRAM, str(graph), "--source", f"http://127.0.0.1:{silent_port}/{path}", "--headless"],
        capture_output=True, text=True, cwd=tmp_path, timeout=20,
    )  # fmt: skip
    assert ended.returncode == 7, ended.stderr
    [error] = [line for line in ended.stderr.splitlines() if "error:" in line]
    assert f"http://127.0.0.1:{silent_port}/{path} does not open: it does not answer in time" in error


def test_opening_a_dead_server_and_asking_why_take_less_than_five_seconds_together():
    from brixel_edge.runtimes.sources import capture, video

    assert capture._OPEN_TIMEOUT_MS / 1e3 + capture._DIAGNOSIS_S < 5
    assert video._TIMEOUT_MS / 1e3 + video._DIAGNOSIS_S < 5


@pytest.mark.parametrize("flag", ["--camera", "--source"])
@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_name_is_refused(graph, flag, text, capsys):
    assert main([str(graph), flag, text, "--headless"]) == 2
    assert f"{flag} is empty" in capsys.readouterr().err


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_interrupt_while_opening_shows_no_password(graph, tmp_path, watched_port, called, address):
    process = subprocess.Popen(
        [*PROGRAM, str(graph), "--source", address.format(port=watched_port), "--headless", "--debug"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert called.wait(60), "it never began to open"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert "127.0.0.1" in output + errors
    assert not [secret for secret in SECRETS if secret in output + errors]


@pytest.mark.parametrize("address", [*ADDRESSES, "rtsp://user:secret@camera.invalid/1"])
def test_a_refusal_shows_no_password(graph, address, tmp_path):
    """FFmpeg and OpenCV may say what they like: their stderr is looked at too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run = subprocess.run(
        [*PROGRAM, str(graph), "--source", address.format(port=port), "--headless", "--json", "--debug"],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "OPENCV_LOG_LEVEL": "WARNING", "OPENCV_FFMPEG_LOGLEVEL": "32"},
    )  # fmt: skip
    assert run.returncode == 7
    assert json.loads(run.stdout.splitlines()[-1])["exit_code"] == 7
    shown = run.stdout + run.stderr
    assert not [secret for secret in SECRETS if secret in shown], shown


def test_a_usage_error_shows_no_password(capsys):
    with pytest.raises(SystemExit):
        main(["a", "rtsp://user:secret@host/1"])
    assert "secret" not in capsys.readouterr().err


def test_no_log_line_shows_a_password(graph, capsys, monkeypatch):
    from brixel_edge.commands import run as command

    def warn(_):
        logging.getLogger("brixel_edge").warning("lost rtsp://user:secret@host/1")
        raise OSError("cannot read rtsp://user:secret@host/1")

    monkeypatch.setattr(command, "_options", warn)
    assert main([str(graph), "--debug"]) == 1
    errors = capsys.readouterr().err
    assert "secret" not in errors
    assert "rtsp://***@host/1" in errors
