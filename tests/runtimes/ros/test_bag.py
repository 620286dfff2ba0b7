"""Bags: what rosbags writes is answered, what is recorded rosbags reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import ros_pictures

pytest.importorskip("rosbags", reason="the extra ros is not installed")

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from brixel_edge.commands import ros
from brixel_edge.errors import BundleError
from brixel_edge.runtimes.ros.transports.bag import BagWriter, messages_of_bag, types_of_bags
from brixel_edge.runtimes.ros.wire.messages import Image, String

START_NS = 1_700_000_000 * 10**9


def recorded_elsewhere(path: Path, plugin: StoragePlugin) -> Path:
    """A bag of three images, by rosbags' own types and code."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    kinds = store.types
    image, header, stamp = (
        kinds[name] for name in ("sensor_msgs/msg/Image", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        topic = writer.add_connection("/camera/image_raw", image.__msgtype__, typestore=store)
        for number in range(3):
            own, at_ns = ros_pictures.red_square(0), START_NS + number * 10**8
            message = image(
                header=header(stamp=stamp(sec=at_ns // 10**9, nanosec=at_ns % 10**9), frame_id="cam"),
                height=own.height, width=own.width, encoding=own.encoding, is_bigendian=0, step=own.step, data=own.data,
            )  # fmt: skip
            writer.write(topic, at_ns, store.serialize_cdr(message, image.__msgtype__))
    return path


@pytest.mark.parametrize("plugin", list(StoragePlugin), ids=lambda plugin: plugin.name)
def test_a_bag_is_answered_into_a_bag(tmp_path, plugin, capsys):
    bag = recorded_elsewhere(tmp_path / "drive", plugin)
    graph = ros_pictures.tiny_graph(tmp_path / "tiny.onnx")
    arguments = ["--bag", str(bag), "--record", str(tmp_path / "answers"), "--set", "image_topic=/camera/image_raw"]
    code = ros.main([str(graph), *arguments, "--set", "query=30,12", "--set", "features=true", "--json"])
    output = capsys.readouterr()
    assert code == 0, output.err
    assert json.loads(output.out)["processed"] == 3
    with AnyReader([tmp_path / "answers"], default_typestore=types_of_bags()) as reader:
        found = [
            (connection.topic, time_ns, reader.deserialize(data, connection.msgtype))
            for connection, time_ns, data in reader.messages()
        ]
    similar = [(time_ns, message) for topic, time_ns, message in found if topic == "/brixel/similarity"]
    assert [time_ns - START_NS for time_ns, _ in similar] == [0, 10**8, 2 * 10**8]
    for time_ns, message in similar:
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == time_ns
        values = np.frombuffer(message.data, "<f4").reshape(8, 12)
        assert values[2, 6] == pytest.approx(1) and values[0, 0] < 0.2
    [features] = [message for topic, _, message in found if topic == "/brixel/features"][:1]
    assert (features.height, features.width, features.channels, features.dtype) == (8, 12, 4, "float16")
    assert np.frombuffer(features.data, "<f2").reshape(8, 12, 4)[2, 6, 2] == pytest.approx(200, abs=0.5)


def test_a_bag_without_the_topic_says_what_it_has(tmp_path, capsys):
    bag = recorded_elsewhere(tmp_path / "drive", StoragePlugin.SQLITE3)
    with pytest.raises(BundleError, match=r"it has /camera/image_raw \(sensor_msgs/msg/Image\)"):
        list(messages_of_bag(bag, {"/image": Image}))
    with pytest.raises(BundleError, match="is sensor_msgs/msg/Image, not std_msgs/msg/String"):
        list(messages_of_bag(bag, {"/camera/image_raw": String}))
    with pytest.raises(BundleError, match="is not a readable bag"):
        list(messages_of_bag(tmp_path, {"/image": Image}))


def test_a_bag_is_not_written_over_another(tmp_path):
    BagWriter(tmp_path / "bag").close()
    with pytest.raises(BundleError, match="name a folder that is not there"):
        BagWriter(tmp_path / "bag")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bag", "x"], "--bag without --record"),
        (["--name", "two words"], "is not letters, digits and _"),
        (["--duration", "-1"], "is not above zero"),
        (["--set", "colour=red"], "no parameter 'colour'"),
        (["--transport", "rclpy", "--record", "x"], "--record is for --transport dds"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments, message, capsys):
    assert ros.main(arguments) == 2
    assert message in capsys.readouterr().err
