"""The node as a lifecycle node of rclpy's, against a stand-in of its API."""

from __future__ import annotations

import array
import sys
import threading

import numpy as np
import pytest
import rclpy_stand_in
import ros_pictures
from rclpy_stand_in import TransitionCallbackReturn, ros_messages

from brixel_edge.errors import BackendMissing
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.ros.lifecycle import lifecycle_node
from brixel_edge.runtimes.ros.parameters import NodeParameters
from brixel_edge.runtimes.ros.run import NodeOptions, run_node
from brixel_edge.runtimes.ros.transports.rclpy import from_ros, to_ros
from brixel_edge.runtimes.ros.wire.messages import CameraInfo, Image
from brixel_edge.runtimes.ros.wire.transport import Quality


@pytest.fixture
def world(monkeypatch):
    return rclpy_stand_in.enter(monkeypatch)


@pytest.fixture
def graph(tmp_path):
    return ros_pictures.tiny_graph(tmp_path / "tiny.onnx")


def test_messages_become_ros_s_own_and_back(world):
    info = CameraInfo(height=2, width=3, k=np.arange(9.0), d=np.array([0.5]), distortion_model="plumb_bob")
    theirs = to_ros(info)
    assert theirs.d == array.array("d", [0.5]) and theirs.roi.do_rectify is False
    again = from_ros(CameraInfo, theirs)
    assert again.k.tolist() == info.k.tolist() and again.distortion_model == "plumb_bob"
    image = ros_pictures.red_square(7)
    assert (from_ros(Image, to_ros(image)).data == image.data).all()


def test_a_life_in_ros_s_hands(world, graph):
    node = lifecycle_node("eye", NodeParameters(query="30,12"), lambda given: open_model(graph, "ort"))
    assert node.trigger_activate() is TransitionCallbackReturn.FAILURE
    assert any("cannot activate while it is unconfigured" in call for call in world.calls)
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    heard, arrived = [], threading.Event()

    def hear(message):
        heard.append(message)
        arrived.set()

    node.create_subscription(ros_messages["sensor_msgs/msg/Image"], "/eye/similarity", hear, None)
    [(_, callback)] = world.subscriptions["/image"]
    callback(to_ros(ros_pictures.red_square(world.time_ns - 10**6)))
    assert arrived.wait(60), node.features.health
    assert heard[0].header.stamp.sec * 10**9 + heard[0].header.stamp.nanosec == world.time_ns - 10**6
    similarity = np.frombuffer(heard[0].data, "<f4").reshape(8, 12)
    assert similarity[2, 6] == pytest.approx(1) and similarity[0, 0] == pytest.approx(
        ros_pictures.cosine_of_colours(), abs=1e-3
    )
    assert node.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
    assert not world.subscriptions["/image"]
    assert node.trigger_cleanup() is TransitionCallbackReturn.SUCCESS
    assert node.trigger_shutdown() is TransitionCallbackReturn.SUCCESS


def test_quality_of_service_is_what_the_parameters_say(world, graph):
    given = NodeParameters(depth=2, image_reliability="reliable", output_reliability="best_effort")
    node = lifecycle_node("eye", given, lambda parameters: open_model(graph, "ort"))
    node.trigger_configure()
    node.trigger_activate()
    image, preview, state = (world.profiles[topic] for topic in ("/image", "/eye/preview", "/eye/state"))
    assert (image.depth, image.reliability.name, image.history.name) == (2, "RELIABLE", "KEEP_LAST")
    assert (preview.depth, preview.reliability.name, preview.durability.name) == (1, "BEST_EFFORT", "VOLATILE")
    assert (state.reliability.name, state.durability.name) == ("RELIABLE", "TRANSIENT_LOCAL")
    node.trigger_shutdown()


def test_parameters_of_a_launch_file_and_of_the_command_line(world, graph):
    world.overrides, world.namespace = {"threshold": 0.25, "image_topic": "/left/image_raw"}, "/robot"
    node = lifecycle_node("eye", NodeParameters(threshold=0.5), lambda parameters: open_model(graph, "ort"))
    assert (node.features.parameters.threshold, node.features.parameters.image_topic) == (0.25, "/left/image_raw")
    assert "/robot/eye/state" in world.profiles
    assert node.set_parameters({"threshold": 0.75, "use_sim_time": True}).successful
    assert node.features.parameters.threshold == 0.75
    refused = node.set_parameters({"threshold": 7.0})
    assert not refused.successful and "is no cosine" in refused.reason


def test_a_message_that_is_not_built_here_is_named(monkeypatch, graph):
    rclpy_stand_in.enter(monkeypatch, has_feature_message=False)
    node = lifecycle_node("eye", NodeParameters(), lambda parameters: open_model(graph, "ort"))
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    refused = node.set_parameters({"features": True})
    assert not refused.successful and "build examples/ros2/brixel_msgs in your workspace" in refused.reason
    node.trigger_shutdown()


def test_a_run_over_rclpy_spins_until_it_is_stopped(world, graph):
    stop = threading.Event()
    spun = sys.modules["rclpy"].spin_once

    def spin_once(node, timeout_sec):
        spun(node, timeout_sec)
        assert node.state == "active"
        stop.set()

    sys.modules["rclpy"].spin_once = spin_once
    options = NodeOptions(
        parameters=NodeParameters(model=str(graph), backend="ort"), transport="rclpy",
        ros_arguments=("--ros-args", "-r", "__ns:=/left"),
    )  # fmt: skip
    health = run_node(options, stop, lambda line: None)
    assert health["state"] == "active"
    assert world.calls[0] == "init ['--ros-args', '-r', '__ns:=/left']"
    assert world.calls[-2:] == ["destroy_node", "try_shutdown"]


def test_no_rclpy_says_what_to_type():
    options = NodeOptions(parameters=NodeParameters(), transport="rclpy")
    with pytest.raises(BackendMissing, match="source /opt/ros/DISTRO"):
        run_node(options, threading.Event(), lambda line: None)


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="depth 0 is not at least 1"):
        Quality(depth=0)
