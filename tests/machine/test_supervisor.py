"""What systemd hears, at a socket of the test's."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager

import pytest

from brixel_edge.machine.supervisor import Supervisor


@contextmanager
def listening(name: str):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name)
        server.setblocking(False)
        yield server


def heard(server: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(server.recv(4096).decode())
        except BlockingIOError:
            return messages


@pytest.mark.parametrize("is_abstract", [False, True])
def test_ready_alive_and_stopping_reach_the_socket(tmp_path, is_abstract):
    name = f"@brixel-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with listening("\0" + name[1:] if is_abstract else name) as server:
        supervisor = Supervisor({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid())})
        supervisor.ready("camera\n0")
        supervisor.ready("again")
        supervisor.alive("12 fps")
        supervisor.stopping()
        supervisor.stopping()
        assert heard(server) == ["READY=1\nSTATUS=camera 0", "WATCHDOG=1\nSTATUS=12 fps", "STOPPING=1"]


def test_signs_of_life_are_sent_as_often_as_they_are_wanted(tmp_path):
    name = str(tmp_path / "notify")
    with listening(name) as server:
        hourly = Supervisor({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": str(7200 * 10**6)})
        for _ in range(100):
            hourly.alive()
        assert heard(server) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}]
)
def test_who_does_not_watch_is_not_told(tmp_path, environ):
    name = str(tmp_path / "notify")
    with listening(name) as server:
        Supervisor({"NOTIFY_SOCKET": name, **environ}).alive()
        assert heard(server) == []


def test_without_a_supervisor_nothing_happens(tmp_path):
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1"}):
        supervisor = Supervisor(environ)
        supervisor.ready("x")
        supervisor.alive()
        supervisor.stopping()
    assert not Supervisor({}).is_there
