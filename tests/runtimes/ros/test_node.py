"""The node over a transport within the process: states, outputs, what is dropped, what can be changed."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import numpy as np
import pytest
import ros_pictures
import tiny_model

from brixel_edge.errors import BackendMissing, BundleError, SpecError
from brixel_edge.runtimes.asking.prototypes import Prototypes
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.ros.commands import CommandTopic, obey
from brixel_edge.runtimes.ros.images_in import Waiting
from brixel_edge.runtimes.ros.node import FeatureNode
from brixel_edge.runtimes.ros.parameters import FIXED, NodeParameters, assignment
from brixel_edge.runtimes.ros.pixels import bgr_from_image
from brixel_edge.runtimes.ros.transports.memory import MemoryTransport
from brixel_edge.runtimes.ros.wire.messages import CameraInfo, FeatureMapMessage, Image, String
from brixel_edge.runtimes.ros.wire.transport import Quality

NOW_NS = 1_700_000_000 * 10**9
QUALITY = Quality()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return ros_pictures.tiny_graph(tmp_path_factory.mktemp("ros") / "tiny.onnx")


class Robot:
    """A node on a memory transport, with an ear at each topic."""

    def __init__(self, graph, **parameters):
        self.transport = MemoryTransport(NOW_NS)
        self.heard = {}
        self.arrived = threading.Condition()
        given = NodeParameters(**{"query": "30,12", "features": True, **parameters})
        for topic in ("preview", "similarity", "segments", "matches", "features", "camera_info", "state"):
            self.transport.subscribe(f"/eye/{topic}", Image, QUALITY, lambda message, t=topic: self._hear(t, message))
        self.node = FeatureNode(
            self.transport, "eye", given, lambda parameters: open_model(graph, "ort", parameters.fit)
        )

    def _hear(self, topic, message):
        with self.arrived:
            self.heard.setdefault(topic, []).append(message)
            self.arrived.notify_all()

    def send(self, image):
        self.transport.publisher("/image", Image, QUALITY).publish(image)

    def wait_for(self, topic, count=1):
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.heard.get(topic, [])) >= count, 60), self.node.health
        return self.heard[topic]

    def wait_until(self, condition):
        deadline_s = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert condition(), self.node.health


@pytest.fixture
def robot(tiny):
    made = []

    def make(**parameters):
        made.append(Robot(tiny, **parameters))
        made[-1].node.configure()
        made[-1].node.activate()
        return made[-1]

    yield make
    for one in made:
        one.node.shutdown()


def array(image):
    dtype = {"32FC1": "<f4", "mono8": "u1", "rgb8": "u1"}[image.encoding]
    return image.data.view(dtype).reshape(image.height, image.width, -1).squeeze()


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8"])
def test_an_image_becomes_similarity_segments_matches_and_features(robot, encoding):
    one = robot()
    one.transport.publisher("/camera_info", CameraInfo, QUALITY).publish(
        CameraInfo(height=32, width=48, k=np.array([90.0, 0, 23.5, 0, 90, 15.5, 0, 0, 1]))
    )
    one.send(ros_pictures.red_square(NOW_NS - 10**7, encoding))
    # The order of publishing: what comes last is there when all is.
    [info] = one.wait_for("camera_info")
    for topic in ("features", "segments", "matches", "preview", "similarity"):
        one.wait_for(topic)
    similarity = array(one.heard["similarity"][0])
    expected = np.full((8, 12), ros_pictures.cosine_of_colours())
    expected[ros_pictures.ROWS, ros_pictures.COLUMNS] = 1
    assert similarity == pytest.approx(expected, abs=1e-3)
    segments = array(one.heard["segments"][0])
    assert (segments[ros_pictures.ROWS, ros_pictures.COLUMNS] == 1).all()
    [told] = json.loads(one.heard["matches"][0].data)["matches"]
    assert told["name"] == "query" and told["score"] == pytest.approx(1, abs=1e-3)
    features = one.heard["features"][0]
    assert isinstance(features, FeatureMapMessage)
    assert features.values[2, 6, :3] == pytest.approx(ros_pictures.RED, abs=0.5)
    assert (features.height, features.width, features.channels) == (8, 12, 4)
    assert features.stride_px.tolist() == [4, 4] and (features.frame_height, features.frame_width) == (32, 48)
    assert (info.width, info.height, info.k[0]) == (12, 8, 90 / 4)
    for message in (one.heard["similarity"][0], one.heard["segments"][0], one.heard["preview"][0], features, info):
        assert (message.header.stamp.ns, message.header.frame_id) == (NOW_NS - 10**7, "camera_optical")


def test_images_older_than_the_bound_are_not_looked_at(robot):
    one = robot(max_age_ms=100.0)
    one.send(ros_pictures.red_square(NOW_NS - 101 * 10**6))
    one.wait_until(lambda: one.node.counters.too_old == 1)
    one.send(ros_pictures.red_square(NOW_NS - 99 * 10**6))
    [answer] = one.wait_for("similarity")
    assert answer.header.stamp.ns == NOW_NS - 99 * 10**6
    one.node.set_parameters({"max_age_ms": 0})
    one.send(ros_pictures.red_square(NOW_NS - 10**12))
    one.wait_for("similarity", 2)


@pytest.mark.parametrize(("depth", "kept"), [(1, [5]), (3, [3, 4, 5])])
def test_the_oldest_give_way(depth, kept):
    waiting = Waiting(depth)
    for stamp in range(6):
        waiting.add(ros_pictures.red_square(stamp))
    assert (waiting.received, waiting.replaced) == (6, 6 - depth)
    assert [waiting.take().header.stamp.ns for _ in kept] == kept
    waiting.end()
    assert waiting.take() is None


def test_a_slow_model_gets_the_newest_image_and_the_others_are_counted(tiny):
    one = Robot(tiny, only_subscribed=False)
    gate, began = threading.Event(), threading.Event()

    def slow(parameters):
        model = open_model(tiny, "ort")
        run = model.features

        def held(*arguments, **named):
            if named["t_capture_s"] and one.node.state == "active":
                began.set()
                assert gate.wait(60)
            return run(*arguments, **named)

        model.features = held
        return model

    one.node._opener = slow
    one.node.configure()
    one.node.activate()
    one.send(ros_pictures.red_square(NOW_NS - 9))
    assert began.wait(60)
    for age in range(8, 0, -1):
        one.send(ros_pictures.red_square(NOW_NS - age))
    gate.set()
    answers = one.wait_for("similarity", 2)
    assert [answer.header.stamp.ns - NOW_NS for answer in answers] == [-9, -1]
    one.node.deactivate()
    counted = one.node.counters
    assert (counted.received, counted.replaced, counted.processed) == (9, 7, 2)
    assert counted.received == counted.replaced + counted.too_old + counted.failed + counted.processed
    one.node.shutdown()


def test_life_goes_one_way_and_back(tiny):
    one = Robot(tiny)
    node = one.node
    for transition in ("activate", "deactivate", "cleanup"):
        with pytest.raises(SpecError, match=f"cannot {transition} while it is unconfigured"):
            getattr(node, transition)()
    node.configure()
    with pytest.raises(SpecError, match="cannot configure while it is inactive"):
        node.configure()
    one.send(ros_pictures.red_square(NOW_NS))  # nobody listens before it is active
    node.activate()
    one.send(ros_pictures.red_square(NOW_NS))
    one.wait_for("similarity")
    node.deactivate()
    one.send(ros_pictures.red_square(NOW_NS))
    node.activate()
    one.send(ros_pictures.red_square(NOW_NS))
    one.wait_for("similarity", 2)
    node.deactivate()
    node.cleanup()
    node.configure()
    node.shutdown()
    node.shutdown()
    states = [json.loads(message.data)["state"] for message in one.heard["state"]]
    assert states == [
        "unconfigured", "inactive", "active", "inactive", "active", "inactive", "unconfigured", "inactive", "finalized",
    ]  # fmt: skip
    assert node.counters.processed == 2


def test_a_model_that_does_not_open_leaves_the_node_unconfigured(tmp_path):
    node = FeatureNode(MemoryTransport(), parameters=NodeParameters(model=str(tmp_path / "none.onnx")))
    with pytest.raises(BundleError):
        node.configure()
    assert node.state == "unconfigured"


def test_parameters_change_while_it_runs_all_or_none(robot):
    one = robot(query="")
    one.send(ros_pictures.red_square(NOW_NS))
    one.wait_for("preview")
    assert "similarity" not in one.heard
    one.node.set_parameters({"query": "2,2", "threshold": "0.9", "preview": "false"})
    one.send(ros_pictures.red_square(NOW_NS))
    [answer] = one.wait_for("similarity")
    assert array(answer)[0, 0] == pytest.approx(1)
    one.wait_until(lambda: one.node.counters.processed == 2)
    assert len(one.heard["preview"]) == 1
    before = one.node.parameters
    for changes, message in (
        ({"threshold": 2}, "threshold 2 is no cosine"),
        ({"preview": True, "nothing": 1}, "no parameter 'nothing'"),
        ({"depth": 4}, "depth can only change before configure"),
        ({"query": "left"}, "is not x,y in pixels"),
        ({"preview": "perhaps"}, "preview is true or false"),
        ({"max_age_ms": "old"}, "max_age_ms is a float"),
        ({"image_reliability": "sometimes"}, "is not one of best_effort, reliable"),
    ):
        with pytest.raises(SpecError, match=message):
            one.node.set_parameters(changes)
        assert one.node.parameters == before
    with pytest.raises(BundleError):
        one.node.set_parameters({"prototypes": "none.prototypes", "preview": True})
    assert one.node.parameters == before


def two_prototypes(tiny, path):
    prototypes = Prototypes()
    with open_model(tiny, "ort") as model:
        features = model(bgr_from_image(ros_pictures.red_square(0)))
    prototypes.add("sky", features, x=2, y=2)
    prototypes.add("ball", features, x=30, y=12)
    prototypes.save(path)
    return str(path)


def test_prototypes_of_a_file_are_found_and_labelled_in_their_order(robot, tiny, tmp_path):
    one = robot(query="", prototypes=two_prototypes(tiny, tmp_path / "two.prototypes"))
    one.send(ros_pictures.red_square(NOW_NS))
    one.wait_for("matches")
    segments = array(one.wait_for("segments")[0])
    assert (segments[ros_pictures.ROWS, ros_pictures.COLUMNS] == 2).all()
    assert segments[0, 0] == 1
    assert [entry["name"] for entry in json.loads(one.heard["matches"][0].data)["matches"]] == ["sky", "ball"]


ANSWERED = ("preview", "similarity", "segments", "matches", "features")
# Of each parameter that may change while the node runs: the change, and what then holds of the next answers.
CHANGES = {
    **{name: ("false", lambda before, after, name=name: name in before and name not in after) for name in ANSWERED},
    "camera_info": ("false", lambda before, after: "camera_info" in before and "camera_info" not in after),
    "feature_dtype": ("float32", lambda *maps: [one["features"].dtype for one in maps] == ["float16", "float32"]),
    "query": ("2,2", lambda before, after: array(before["similarity"])[0, 0] < 0.9 < array(after["similarity"])[0, 0]),
    "threshold": ("-1", lambda before, after: not array(before["segments"]).all() and array(after["segments"]).all()),
    "prototypes": ("two.prototypes", lambda *both: [len(names(one)) for one in both] == [1, 3]),
    "only_subscribed": ("true", lambda before, after: before and not after),
}  # fmt: skip


def names(answers):
    return [entry["name"] for entry in json.loads(answers["matches"].data)["matches"]]


def test_every_parameter_that_may_change_is_known_to_these_tests():
    known = {entry.name for entry in dataclasses.fields(NodeParameters)}
    assert known == FIXED | set(CHANGES) | {"max_age_ms"}  # of which a test is above


@pytest.mark.parametrize("name", CHANGES)
def test_a_parameter_that_changes_while_the_node_runs_holds_from_the_next_image_on(name, tiny, tmp_path):
    value, holds = CHANGES[name]
    if name == "prototypes":
        value = two_prototypes(tiny, tmp_path / value)
    transport, image = MemoryTransport(NOW_NS), ros_pictures.red_square(NOW_NS)
    given = NodeParameters(query="30,12", features=True, only_subscribed=False)
    node = FeatureNode(transport, "eye", given, lambda parameters: open_model(tiny, "ort"))
    node.configure()
    node.hear_calibration(CameraInfo(height=32, width=48, k=np.array([90.0, 0, 23.5, 0, 90, 15.5, 0, 0, 1])))
    before = node.process(image)
    node.set_parameters({name: value})
    assert holds(before, node.process(image))
    node.shutdown()


@pytest.mark.parametrize("name", sorted(FIXED))
def test_a_parameter_of_the_topics_or_the_model_changes_before_configure_alone(name, tiny):
    value = {"depth": 3, "fit": "crop", "image_reliability": "reliable", "output_reliability": "best_effort"}
    node = FeatureNode(MemoryTransport(NOW_NS), "eye", opener=lambda parameters: open_model(tiny, "ort"))
    node.configure()
    with pytest.raises(SpecError, match=f"{name} can only change before configure; deactivate and cleanup first"):
        node.set_parameters({name: value.get(name, "/other")})
    node.cleanup()
    node.set_parameters({name: value.get(name, "/other")})
    assert getattr(node.parameters, name) == value.get(name, "/other")
    node.shutdown()


def test_prototypes_of_another_model_are_refused_before_the_first_image(tiny, tmp_path):
    other = two_prototypes(tiny_model.save(tmp_path / "other.onnx", bias=1.0), tmp_path / "other.prototypes")
    given = NodeParameters(prototypes=other)
    node = FeatureNode(MemoryTransport(NOW_NS), "eye", given, lambda parameters: open_model(tiny, "ort"))
    with pytest.raises(SpecError, match="their features cannot be compared"):
        node.configure()
    assert node.state == "unconfigured"
    node.set_parameters({"prototypes": ""})
    node.configure()
    with pytest.raises(SpecError, match="their features cannot be compared"):
        node.set_parameters({"prototypes": other})
    assert node.parameters.prototypes == ""
    node.shutdown()


def test_an_image_that_cannot_be_read_is_counted_and_said_once(robot):
    one = robot()
    for _ in range(3):
        broken = ros_pictures.red_square(NOW_NS)
        broken.encoding = "jpeg"
        before = one.node.counters.failed
        one.send(broken)
        one.wait_until(lambda before=before: one.node.counters.failed == before + 1)
    one.send(ros_pictures.red_square(NOW_NS))
    one.wait_for("similarity")
    failures = [json.loads(message.data)["last_failure"] for message in one.heard["state"]]
    assert sum("'jpeg' are not read" in failure for failure in failures) == 1


def test_nothing_is_computed_for_nobody(tiny):
    transport = MemoryTransport(NOW_NS)
    node = FeatureNode(transport, "eye", NodeParameters(query="2,2"), lambda parameters: open_model(tiny, "ort"))
    node.configure()
    assert node.process(ros_pictures.red_square(NOW_NS)) == {}
    heard = []
    transport.subscribe("/eye/similarity", Image, QUALITY, heard.append)
    assert set(node.process(ros_pictures.red_square(NOW_NS))) == {"similarity"}
    node.shutdown()


def test_commands_by_text(tiny):
    one, lines = Robot(tiny), []
    commands = CommandTopic(one.transport, one.node, lines.append)
    topic = one.transport.publisher("/eye/command", String, QUALITY)
    for text in ("configure", "activate", "set threshold=0.5 preview=false", "dance", "set depth=2"):
        topic.publish(String(data=text))
        commands.obey_next(1.0)
    assert one.node.state == "active" and one.node.parameters.threshold == 0.5 and not one.node.parameters.preview
    assert lines[:2] == ["configure: done; inactive", "activate: done; active"]
    assert "is none of configure" in lines[3] and "can only change before" in lines[4]
    assert "can only change before" in json.loads(one.heard["state"][-1].data)["last_failure"]
    obey(one.node, "shutdown")
    assert one.node.state == "finalized"


@pytest.mark.parametrize("text", ["threshold", "=3", ""])
def test_an_assignment_that_is_none(text):
    with pytest.raises(SpecError, match="sets nothing"):
        assignment(text)


def test_features_whose_message_is_not_known_are_refused_and_the_rest_goes_on(tiny):
    class Poor(MemoryTransport):
        def publisher(self, topic, kind, quality):
            if kind is FeatureMapMessage:
                raise BackendMissing("brixel_msgs/msg/FeatureMap is not known to this ROS")
            return super().publisher(topic, kind, quality)

    node = FeatureNode(Poor(NOW_NS), "eye", NodeParameters(), lambda parameters: open_model(tiny, "ort"))
    node.configure()
    with pytest.raises(BackendMissing):
        node.set_parameters({"features": True})
    assert not node.parameters.features and node.state == "inactive"
    node.shutdown()
