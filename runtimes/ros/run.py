"""Running a node until it is stopped: over rclpy, over DDS, or through a bag."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol

from brixel_edge.errors import BackendMissing, SpecError
from brixel_edge.runtimes.ros.commands import CommandTopic
from brixel_edge.runtimes.ros.node import FeatureNode
from brixel_edge.runtimes.ros.parameters import NodeParameters
from brixel_edge.runtimes.ros.signs_of_life import SignsOfLife
from brixel_edge.runtimes.ros.transports.memory import MemoryTransport
from brixel_edge.runtimes.ros.wire.messages import CameraInfo, Image, Message
from brixel_edge.runtimes.ros.wire.transport import Transport

TransportName = Literal["auto", "rclpy", "dds"]
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """How to run a node.

    Attributes:
        parameters: to begin with.
        name: of the node.
        transport: `auto` takes rclpy where it is installed.
        is_active: configure and activate it at once.
        domain: of DDS; None takes ROS_DOMAIN_ID.
        bag: images come from this bag, every one of them.
        record: what is published goes into this bag, too.
        duration_s: end after so long; None goes on.
        ros_arguments: for rclpy, `--ros-args` and what follows.
    """

    parameters: NodeParameters
    name: str = "brixel"
    transport: TransportName = "auto"
    is_active: bool = True
    domain: int | None = None
    bag: Path | None = None
    record: Path | None = None
    duration_s: float | None = None
    ros_arguments: tuple[str, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.name) is None:
            raise SpecError(f"name {self.name!r} of a node is not letters, digits and _; for instance brixel")
        if self.duration_s is not None and not 0 < self.duration_s < math.inf:
            raise SpecError(f"duration {self.duration_s:g} s is not above zero")
        if self.bag is not None and self.record is None:
            raise SpecError("--bag without --record leaves nothing behind; add --record DIR")


class StopFlag(Protocol):
    """Set when the run shall end."""

    def is_set(self) -> bool:
        """Whether it is."""
        ...


def run_node(options: NodeOptions, stop: StopFlag, say: Callable[[str], None]) -> dict[str, Any]:
    """Run until `stop` is set, the time is over, or the bag ends.

    Returns:
        the node's health at the end.

    Raises:
        BrixelError: the model does not open, a transport is not installed, a bag cannot be read.
    """
    if options.bag is not None:
        return _run_through_bag(options, options.bag, stop, say)
    name = options.transport
    if name == "auto":
        name = "rclpy" if importlib.util.find_spec("rclpy") is not None else "dds"
    if name == "rclpy":
        if options.record is not None:
            raise SpecError("--record is for --transport dds and --bag; with rclpy: ros2 bag record")
        return _run_on_rclpy(options, stop, say)
    return _run_on_dds(options, stop, say)


def _recorded(transport: Transport, record: Path | None) -> Transport:
    """A transport, recorded where that is asked for; it closes the bag."""
    if record is None:
        return transport
    bag = _bags()
    return bag.RecordingTransport(transport, bag.BagWriter(record))


def _bags() -> Any:
    try:
        return importlib.import_module("brixel_edge.runtimes.ros.transports.bag")
    except ImportError as error:
        raise BackendMissing(f"bags need rosbags ({error}); pip install 'brixel-edge[ros]'") from error


def _dds() -> Any:
    try:
        return importlib.import_module("brixel_edge.runtimes.ros.transports.dds")
    except ImportError as error:
        raise BackendMissing(f"--transport dds needs Cyclone DDS ({error}); pip install 'brixel-edge[ros]'") from error


def _run_on_dds(options: NodeOptions, stop: StopFlag, say: Callable[[str], None]) -> dict[str, Any]:
    with ExitStack() as stack:
        transport = _recorded(_dds().DdsTransport(options.domain), options.record)
        stack.callback(transport.close)
        node = FeatureNode(transport, options.name, options.parameters)
        stack.callback(node.shutdown)
        signs = SignsOfLife(node)
        stack.callback(signs.ends)
        commands = CommandTopic(transport, node, say)
        if options.is_active:
            node.configure()
            node.activate()
        signs.began()
        say(f"/{node.name} on DDS is {node.state}; images from {options.parameters.image_topic}")
        end_s = None if options.duration_s is None else monotonic() + options.duration_s
        while not stop.is_set() and node.state != "finalized" and (end_s is None or monotonic() < end_s):
            commands.obey_next(_POLL_S)
            signs.tick()
        return node.health


def _run_on_rclpy(options: NodeOptions, stop: StopFlag, say: Callable[[str], None]) -> dict[str, Any]:
    from brixel_edge.runtimes.ros.lifecycle import import_rclpy, lifecycle_node

    rclpy = import_rclpy()
    rclpy.init(args=list(options.ros_arguments))
    with ExitStack() as stack:
        stack.callback(rclpy.try_shutdown)
        node = lifecycle_node(options.name, options.parameters)
        stack.callback(node.destroy_node)
        stack.callback(node.features.shutdown)
        signs = SignsOfLife(node.features)
        stack.callback(signs.ends)
        if options.is_active:
            node.trigger_configure()
            node.trigger_activate()
        signs.began()
        say(f"/{options.name} on rclpy is {node.features.state}")
        end_s = None if options.duration_s is None else monotonic() + options.duration_s
        while not stop.is_set() and rclpy.ok() and (end_s is None or monotonic() < end_s):
            rclpy.spin_once(node, timeout_sec=_POLL_S)
            signs.tick()
        return node.features.health


def _run_through_bag(options: NodeOptions, bag: Path, stop: StopFlag, say: Callable[[str], None]) -> dict[str, Any]:
    given = options.parameters
    clock = MemoryTransport()
    topics: dict[str, type[Message]] = {given.image_topic: Image, given.camera_info_topic: CameraInfo}
    with ExitStack() as stack:
        transport = _recorded(clock, options.record)
        stack.callback(transport.close)
        node = FeatureNode(transport, options.name, given)
        stack.callback(node.shutdown)
        node.configure()
        for _, message, time_ns in _bags().messages_of_bag(bag, topics):
            if stop.is_set():
                break
            clock.time_ns = time_ns
            if isinstance(message, CameraInfo):
                node.hear_calibration(message)
            else:
                node.answer(message)
        say(f"{node.counters.processed} images of {bag}")
        return node.health
