"""What a supervisor hears of a run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
import ros_pictures

from brixel_edge.machine.supervisor import Supervisor
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.ros.node import FeatureNode
from brixel_edge.runtimes.ros.parameters import NodeParameters
from brixel_edge.runtimes.ros.signs_of_life import SignsOfLife
from brixel_edge.runtimes.ros.transports.memory import MemoryTransport
from brixel_edge.runtimes.ros.wire.messages import Image
from brixel_edge.runtimes.ros.wire.transport import Quality
from brixel_edge.runtimes.stream.service import Service


@pytest.fixture
def server(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.setblocking(False)
        yield server


def heard(server):
    messages = []
    while True:
        try:
            messages.append(server.recv(4096).decode())
        except BlockingIOError:
            return messages


def eager(server) -> Supervisor:
    """One that wants a sign at every tick."""
    return Supervisor({"NOTIFY_SOCKET": server.getsockname(), "WATCHDOG_USEC": "1"})


def test_a_run_without_results_gives_no_sign_of_life(server):
    service = Service(eager(server))
    service.began("camera -> model")
    service.tick("running")
    assert heard(server) == ["READY=1\nSTATUS=camera -> model", "WATCHDOG=1"]
    for state in ("running", "stalled", "degraded"):
        service.tick(state)
    assert heard(server) == []
    service.has_result()
    service.tick("running")
    service.tick("reconnecting")
    service.ends()
    assert heard(server) == ["WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]


def test_a_node_whose_engine_does_not_return_gives_no_sign_of_life(server, tmp_path):
    gate, transport = threading.Event(), MemoryTransport(1)
    graph = ros_pictures.tiny_graph(tmp_path / "tiny.onnx")

    def opened(parameters):
        model = open_model(graph, "ort")
        run = model.features

        def held(*arguments, **named):
            assert node.state != "active" or gate.wait(60)
            return run(*arguments, **named)

        model.features = held
        return model

    node = FeatureNode(transport, "eye", NodeParameters(only_subscribed=False, max_age_ms=0), opened)
    signs = SignsOfLife(node, eager(server))
    node.configure()
    node.activate()
    signs.began()
    signs.tick()
    signs.tick()  # no camera: it lives
    alive = "WATCHDOG=1\nSTATUS=active, 0 images"
    assert heard(server) == ["READY=1\nSTATUS=eye is active", alive, alive]
    transport.publisher("/image", Image, Quality()).publish(ros_pictures.red_square(1))
    until(lambda: node.image_at_work is not None)
    for _ in range(3):
        signs.tick()
    assert heard(server) == [alive]  # it has begun, and then nothing
    gate.set()
    until(lambda: node.image_at_work is None)
    signs.tick()
    node.shutdown()
    signs.ends()
    assert heard(server) == ["WATCHDOG=1\nSTATUS=active, 1 images", "STOPPING=1"]


def until(condition):
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


@pytest.mark.parametrize("command", ["run", "ros"])
def test_a_command_tells_systemd_of_its_life(server, command):
    if command == "ros":
        pytest.importorskip("cyclonedds", reason="the extra ros is not installed")
    arguments = {"run": ["--source", "test:pattern", "--headless", "--frames", "3"], "ros": ["--duration", "1"]}
    environ = {"NOTIFY_SOCKET": server.getsockname(), "WATCHDOG_USEC": "2000"}
    result = subprocess.run(
        [sys.executable, "-m", f"brixel_edge.commands.{command}", *arguments[command]],
        env={**os.environ, **environ}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    messages = heard(server)
    assert messages[0].startswith("READY=1\nSTATUS=") and messages[-1] == "STOPPING=1"
    assert len(messages) >= 3 and all(message.startswith("WATCHDOG=1") for message in messages[1:-1])
