"""The node over Cyclone DDS: real messages between two processes on loopback, with ROS 2's names and types."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import ros_pictures

pytest.importorskip("cyclonedds", reason="the extra ros is not installed")

from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.domain import DomainParticipant
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from ros_idl import Image_

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.ros.transports.dds import DdsTransport, domain_from_environment, topic_on_the_wire
from brixel_edge.runtimes.ros.wire.messages import Image, String
from brixel_edge.runtimes.ros.wire.transport import Quality

RELIABLE = Quality(depth=32, reliability="reliable")
BOUND_MS, OLD_NS = 60_000, 600 * 10**9
LIMIT_S = 120


@pytest.fixture(scope="module")
def domain():
    """Of this process alone, on loopback, found by address."""
    interface = "<Interfaces><NetworkInterface address='127.0.0.1'/></Interfaces><AllowMulticast>false</AllowMulticast>"
    discovery = "<ParticipantIndex>auto</ParticipantIndex><Peers><Peer address='127.0.0.1'/></Peers>"
    with pytest.MonkeyPatch.context() as patch:
        number = 1 + os.getpid() % 200
        patch.setenv("ROS_DOMAIN_ID", str(number))
        patch.setenv(
            "CYCLONEDDS_URI",
            f"<CycloneDDS><Domain><General>{interface}</General><Discovery>{discovery}</Discovery></Domain></CycloneDDS>",
        )
        yield number


@contextlib.contextmanager
def running_node(*arguments):
    command = [sys.executable, "-m", "brixel_edge.commands.ros", *arguments, "--transport", "dds", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition, process, limit_s=LIMIT_S):
    deadline_s = time.monotonic() + limit_s
    while not condition() and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    if not condition():
        process.kill()
        raise AssertionError(process.communicate())


def test_images_of_one_process_are_answered_by_another(domain, tmp_path):
    graph = ros_pictures.tiny_graph(tmp_path / "tiny.onnx")
    transport, answers, states, told = DdsTransport(), [], [], []
    transport.subscribe("/eye/similarity", Image, RELIABLE, lambda answer: answers.append((answer, time.time_ns())))
    transport.subscribe("/eye/matches", String, RELIABLE, told.append)
    kept = Quality(reliability="reliable", is_kept=True)
    transport.subscribe("/eye/state", String, kept, lambda message: states.append(json.loads(message.data)["state"]))
    camera = transport.publisher("/camera/image_raw", Image, RELIABLE)
    commands = transport.publisher("/eye/command", String, RELIABLE)
    settings = ["image_topic=/camera/image_raw", "query=30,12", f"max_age_ms={BOUND_MS}", "image_reliability=reliable"]
    options = [part for setting in settings for part in ("--set", setting)]
    with running_node(str(graph), "--name", "eye", *options) as process:
        wait_until(lambda: "active" in states, process)
        wait_until(lambda: camera.has_subscribers and commands.has_subscribers, process)
        own = pure_reader(domain)
        fresh, old = [], []

        def send():
            for age_ns, sent in ((OLD_NS, old), (0, fresh)):
                sent.append(time.time_ns() - age_ns)
                camera.publish(ros_pictures.red_square(sent[-1]))
                time.sleep(0.1)  # or the newer one takes the older one's place
            return len(answers) >= 5

        wait_until(send, process)
        for answer, arrived_ns in answers:
            assert answer.header.stamp.ns in fresh and answer.header.stamp.ns not in old
            assert 0 <= arrived_ns - answer.header.stamp.ns <= BOUND_MS * 10**6
            similarity = answer.data.view("<f4").reshape(answer.height, answer.width)
            assert similarity[ros_pictures.ROWS, ros_pictures.COLUMNS] == pytest.approx(1, abs=1e-3)
            assert similarity[0, 0] == pytest.approx(ros_pictures.cosine_of_colours(), abs=1e-3)
        assert json.loads(told[0].data)["frame_id"] == "camera_optical"
        wait_until(lambda: send() and own.read(), process)
        theirs = own.read()[0]
        assert (theirs.encoding, theirs.height, theirs.width, theirs.step) == ("32FC1", 8, 12, 48)
        assert np.frombuffer(bytes(theirs.data), "<f4")[2 * 12 + 6] == pytest.approx(1, abs=1e-3)
        names = {entry.topic_name: entry.type_name for entry in topics(domain)}
        assert names["rt/eye/similarity"] == "sensor_msgs::msg::dds_::Image_"
        assert names["rt/eye/state"] == "std_msgs::msg::dds_::String_"
        commands.publish(String(data="deactivate"))
        wait_until(lambda: states[-1] == "inactive", process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=LIMIT_S)
    transport.close()
    assert process.returncode == 0, errors
    health = json.loads(output)
    assert health["processed"] >= 5 and health["failed"] == 0 and health["too_old"] >= 1
    assert health["received"] == health["replaced"] + health["too_old"] + health["processed"]


def pure_reader(domain):
    participant = DomainParticipant(domain)
    topic = Topic(participant, "rt/eye/similarity", Image_)
    return DataReader(participant, topic, qos=Qos(Policy.Reliability.BestEffort, Policy.History.KeepLast(8)))


def topics(domain):
    participant = DomainParticipant(domain)  # ends with its last reference, and its readers with it
    reader = BuiltinDataReader(participant, BuiltinTopicDcpsPublication)
    deadline_s, found = time.monotonic() + 10, []
    while time.monotonic() < deadline_s:
        found += [entry for entry in reader.take(N=64) if hasattr(entry, "topic_name")]
        if {"rt/eye/similarity", "rt/eye/state"} <= {entry.topic_name for entry in found}:
            break
        time.sleep(0.1)
    return found


def test_a_broken_callback_does_not_end_the_thread_of_all_topics(domain, warnings):
    transport, heard = DdsTransport(), []

    def hear(message):
        heard.append(message.data)
        if message.data == "bad":
            raise RuntimeError("a fault of the callback's")

    transport.subscribe("/here/text", String, RELIABLE, hear)
    publisher = transport.publisher("/here/text", String, RELIABLE)
    for text in ("bad", "good"):
        publisher.publish(String(data=text))
        deadline_s = time.monotonic() + LIMIT_S
        while text not in heard and time.monotonic() < deadline_s:
            time.sleep(0.02)
    assert heard == ["bad", "good"]
    transport.close()


@pytest.mark.parametrize(("value", "domain_id"), [("", 0), ("7", 7)])
def test_the_domain_is_ros_s(monkeypatch, value, domain_id):
    monkeypatch.setenv("ROS_DOMAIN_ID", value)
    assert domain_from_environment() == domain_id


@pytest.mark.parametrize("value", ["-1", "233", "x"])
def test_a_domain_that_cannot_be_is_refused(monkeypatch, value):
    monkeypatch.setenv("ROS_DOMAIN_ID", value)
    with pytest.raises(SpecError, match="is not a number from 0 to 232"):
        domain_from_environment()


@pytest.mark.parametrize("topic", ["image", "/", "/a b", "/1image", "/a//b"])
def test_a_name_that_is_no_topic_is_refused(topic):
    with pytest.raises(SpecError, match="is not a full name"):
        topic_on_the_wire(topic)
