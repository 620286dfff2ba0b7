"""As much of ROS 2's Python API as the node uses: rclpy, its lifecycle node, QoS, and generated messages.

By rclpy's documentation (Humble and Jazzy). Messages check what is set as the generated classes do: bytes as
array('B'), arrays of fixed length as they are long, strings as str.
"""

from __future__ import annotations

import array
import enum
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from brixel_edge.runtimes.ros.wire.messages import MESSAGES, FeatureMapMessage


class TransitionCallbackReturn(enum.Enum):
    SUCCESS = 97
    FAILURE = 98
    ERROR = 99


@dataclass
class World:
    """What nodes of one process share."""

    subscriptions: dict[str, list[tuple[Any, Callable[[Any], None]]]] = field(default_factory=dict)
    profiles: dict[str, Any] = field(default_factory=dict)
    time_ns: int = 1_700_000_000 * 10**9
    calls: list[str] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    namespace: str = ""


def _default(text: str) -> Any:
    if text in MESSAGES:
        return ros_messages[text]()
    if text.endswith("[]"):
        return array.array("B" if text.startswith("uint8") else "d")
    if "[" in text:
        return np.zeros(int(text.split("[")[1][:-1]))
    return {"string": "", "bool": False}.get(text, 0)


def _is_allowed(text: str, value: Any) -> bool:
    if text.endswith("[]"):
        return isinstance(value, array.array) and value.typecode == ("B" if text.startswith("uint8") else "d")
    if "[" in text:
        return isinstance(value, np.ndarray) and value.dtype == np.float64 and value.size == int(text[8:-1])
    if text in MESSAGES:
        return type(value) is ros_messages[text]
    return type(value) is {"string": str, "bool": bool}.get(text, int)


def _message_class(kind: type) -> type:
    def __init__(self: Any) -> None:
        for name, text in kind.FIELDS.items():
            object.__setattr__(self, name, _default(text))

    def __setattr__(self: Any, name: str, value: Any) -> None:
        assert _is_allowed(kind.FIELDS[name], value), (name, type(value))
        object.__setattr__(self, name, value)

    return type(kind.NAME.rpartition("/")[2], (), {"__init__": __init__, "__setattr__": __setattr__})


ros_messages: dict[str, type] = {}
ros_messages |= {name: _message_class(kind) for name, kind in MESSAGES.items()}


class LifecycleNode:
    def __init__(self, name: str) -> None:
        self.name, self._world, self._callbacks = name, sys.modules["rclpy"].world, []
        self._parameters: dict[str, Any] = {}
        self.state = "unconfigured"

    def get_fully_qualified_name(self) -> str:
        return f"{self._world.namespace}/{self.name}"

    def declare_parameter(self, name: str, default: Any) -> SimpleNamespace:
        self._parameters[name] = self._world.overrides.get(name, default)
        return SimpleNamespace(name=name, value=self._parameters[name])

    def add_on_set_parameters_callback(self, callback: Callable[[Any], Any]) -> None:
        self._callbacks.append(callback)

    def set_parameters(self, values: dict[str, Any]) -> Any:
        """What `ros2 param set` comes to."""
        given = [SimpleNamespace(name=name, value=value) for name, value in values.items()]
        [result] = [callback(given) for callback in self._callbacks]
        if result.successful:
            self._parameters |= values
        return result

    def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], profile: Any) -> Any:
        entry = (kind, callback)
        self._world.subscriptions.setdefault(topic, []).append(entry)
        self._world.profiles[topic] = profile
        return topic, entry

    def destroy_subscription(self, subscription: Any) -> None:
        topic, entry = subscription
        self._world.subscriptions[topic].remove(entry)

    def create_publisher(self, kind: type, topic: str, profile: Any) -> Any:
        self._world.profiles[topic] = profile
        heard = self._world.subscriptions

        def publish(message: Any) -> None:
            assert type(message) is kind
            for wanted, callback in heard.get(topic, []):
                assert wanted is kind
                callback(message)

        return SimpleNamespace(publish=publish, get_subscription_count=lambda: len(heard.get(topic, [])))

    def destroy_publisher(self, publisher: Any) -> None:
        self._world.calls.append("destroy_publisher")

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self._world.time_ns))

    def get_logger(self) -> Any:
        return SimpleNamespace(error=lambda text: self._world.calls.append(f"error: {text}"))

    def destroy_node(self) -> None:
        self._world.calls.append("destroy_node")

    def _trigger(self, transition: str, state: str) -> TransitionCallbackReturn:
        result = getattr(self, f"on_{transition}")(SimpleNamespace(label=self.state))
        if result is TransitionCallbackReturn.SUCCESS:
            self.state = state
        return result

    def trigger_configure(self) -> TransitionCallbackReturn:
        return self._trigger("configure", "inactive")

    def trigger_activate(self) -> TransitionCallbackReturn:
        return self._trigger("activate", "active")

    def trigger_deactivate(self) -> TransitionCallbackReturn:
        return self._trigger("deactivate", "inactive")

    def trigger_cleanup(self) -> TransitionCallbackReturn:
        return self._trigger("cleanup", "unconfigured")

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        return self._trigger("shutdown", "finalized")


def enter(monkeypatch: Any, *, has_feature_message: bool = True) -> World:
    """Put the modules in place for one test."""
    world = World()
    rclpy: Any = types.ModuleType("rclpy")
    rclpy.world = world
    rclpy.init = lambda args=None: world.calls.append(f"init {args}")
    rclpy.ok = lambda: True
    rclpy.try_shutdown = lambda: world.calls.append("try_shutdown")
    rclpy.spin_once = lambda node, timeout_sec: world.calls.append("spin_once")
    qos: Any = types.ModuleType("rclpy.qos")
    qos.QoSProfile = SimpleNamespace
    qos.HistoryPolicy = enum.Enum("HistoryPolicy", "KEEP_LAST KEEP_ALL")
    qos.ReliabilityPolicy = enum.Enum("ReliabilityPolicy", "RELIABLE BEST_EFFORT")
    qos.DurabilityPolicy = enum.Enum("DurabilityPolicy", "TRANSIENT_LOCAL VOLATILE")
    lifecycle: Any = types.ModuleType("rclpy.lifecycle")
    lifecycle.LifecycleNode, lifecycle.TransitionCallbackReturn = LifecycleNode, TransitionCallbackReturn
    interfaces: Any = types.ModuleType("rcl_interfaces")
    interfaces_msg: Any = types.ModuleType("rcl_interfaces.msg")
    interfaces_msg.SetParametersResult = lambda successful, reason="": SimpleNamespace(
        successful=successful, reason=reason
    )
    modules = {
        "rclpy": rclpy, "rclpy.qos": qos, "rclpy.lifecycle": lifecycle, "rcl_interfaces": interfaces,
        "rcl_interfaces.msg": interfaces_msg,
    }  # fmt: skip
    for name, kind in ros_messages.items():
        if name == FeatureMapMessage.NAME and not has_feature_message:
            continue
        package, _, own = name.split("/")
        modules.setdefault(package, types.ModuleType(package))
        module = modules.setdefault(f"{package}.msg", types.ModuleType(f"{package}.msg"))
        setattr(module, own, kind)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return world
