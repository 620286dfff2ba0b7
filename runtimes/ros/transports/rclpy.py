"""ROS 2's own client, where it is installed: a lifecycle node, its parameters and its topics."""

from __future__ import annotations

import array
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from brixel_edge.errors import BackendMissing
from brixel_edge.runtimes.ros.wire.messages import MESSAGES, Message
from brixel_edge.runtimes.ros.wire.transport import Quality


def ros_class(kind: type[Message]) -> Any:
    """The class that ROS generated for a message.

    Raises:
        BackendMissing: its package is not built here.
    """
    package, folder, name = kind.NAME.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{folder}"), name)
    except (ImportError, AttributeError) as error:
        raise BackendMissing(
            f"{kind.NAME} is not known to this ROS ({error}); build examples/ros2/{package} in your workspace, "
            "or install the package of that name"
        ) from error


def to_ros(message: Message) -> Any:
    """A message as ROS has it. Bytes go as one array: ROS checks the items of anything else one by one."""
    result = ros_class(type(message))()
    for name, kind in message.FIELDS.items():
        value = getattr(message, name)
        if kind == "uint8[]":
            value = array.array("B", np.ascontiguousarray(value, np.uint8).tobytes())
        elif kind == "float64[]":
            value = array.array("d", np.ascontiguousarray(value, np.float64).tobytes())
        elif kind in MESSAGES:
            value = to_ros(value)
        setattr(result, name, value)
    return result


def from_ros(kind: type[Message], value: Any) -> Any:
    """A message of ours; numbers are views of ROS's own memory."""
    fields: dict[str, Any] = {}
    for name, text in kind.FIELDS.items():
        own = getattr(value, name)
        if text == "uint8[]":
            own = np.frombuffer(own, np.uint8)
        elif text.startswith("float64["):
            own = np.asarray(own, np.float64)
        elif text in MESSAGES:
            own = from_ros(MESSAGES[text], own)
        fields[name] = own
    return kind(**fields)


def _profile(quality: Quality) -> Any:
    qos = importlib.import_module("rclpy.qos")
    is_reliable = quality.reliability == "reliable"
    return qos.QoSProfile(
        history=qos.HistoryPolicy.KEEP_LAST,
        depth=quality.depth,
        reliability=qos.ReliabilityPolicy.RELIABLE if is_reliable else qos.ReliabilityPolicy.BEST_EFFORT,
        durability=qos.DurabilityPolicy.TRANSIENT_LOCAL if quality.is_kept else qos.DurabilityPolicy.VOLATILE,
    )


class _RclpySubscription:
    def __init__(self, node: Any, inner: Any) -> None:
        self._node, self._inner = node, inner

    def close(self) -> None:
        """Hear no more."""
        if self._inner is not None:
            self._node.destroy_subscription(self._inner)
        self._inner = None


class _RclpyPublisher:
    def __init__(self, node: Any, inner: Any) -> None:
        self._node, self._inner = node, inner

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody would receive a message."""
        return self._inner is not None and self._inner.get_subscription_count() > 0

    def publish(self, message: Message) -> None:
        """Send one."""
        if self._inner is not None:
            self._inner.publish(to_ros(message))

    def close(self) -> None:
        """End the topic."""
        if self._inner is not None:
            self._node.destroy_publisher(self._inner)
        self._inner = None


class RclpyTransport:
    """The topics of a node of rclpy's.

    Args:
        node: of rclpy's; who made it destroys it.
    """

    def __init__(self, node: Any) -> None:
        self._node = node

    def subscribe(
        self, topic: str, kind: type[Message], quality: Quality, callback: Callable[[Any], None]
    ) -> _RclpySubscription:
        """Call back with each message, from the thread that spins the node."""

        def hear(value: Any) -> None:
            callback(from_ros(kind, value))

        return _RclpySubscription(
            self._node, self._node.create_subscription(ros_class(kind), topic, hear, _profile(quality))
        )

    def publisher(self, topic: str, kind: type[Message], quality: Quality) -> _RclpyPublisher:
        """Begin a topic."""
        return _RclpyPublisher(self._node, self._node.create_publisher(ros_class(kind), topic, _profile(quality)))

    def now_ns(self) -> int:
        """ROS's clock, a simulation's with use_sim_time."""
        return self._node.get_clock().now().nanoseconds

    def close(self) -> None:
        """Nothing: the node is who made it's."""
