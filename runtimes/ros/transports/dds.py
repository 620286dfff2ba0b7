"""DDS without ROS: Eclipse Cyclone DDS, with the names and types that ROS 2 puts on the wire.

A topic `/camera/image_raw` is `rt/camera/image_raw` there, a type `sensor_msgs/msg/Image` is
`sensor_msgs::msg::dds_::Image_`. The domain is that of ROS_DOMAIN_ID, interfaces and peers are those of CYCLONEDDS_URI.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from cyclonedds import idl
from cyclonedds.core import InstanceState as Instances
from cyclonedds.core import ReadCondition, SampleState, ViewState, WaitSet
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import types
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from brixel_edge.errors import BrixelError, SpecError
from brixel_edge.runtimes.ros.wire.cdr import cdr_from_message, message_from_cdr
from brixel_edge.runtimes.ros.wire.messages import MESSAGES, Message
from brixel_edge.runtimes.ros.wire.transport import Quality

_LOG = logging.getLogger(__name__)
_POLL_MS = 100
_JOIN_S = 5.0
_PRIMITIVES = {
    "bool": bool, "uint8": types.uint8, "int32": types.int32, "uint32": types.uint32, "float64": types.float64,
    "string": str,
}  # fmt: skip
_SEQUENCE = re.compile(r"(\w+)\[(\d*)\]")


def domain_from_environment() -> int:
    """ROS_DOMAIN_ID, 0 where it is not set.

    Raises:
        SpecError: it is no domain.
    """
    text = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not text.isdecimal() or int(text) > 232:
        raise SpecError(f"ROS_DOMAIN_ID={text!r} is not a number from 0 to 232")
    return int(text)


def topic_on_the_wire(topic: str) -> str:
    """`/camera/image_raw` -> `rt/camera/image_raw`.

    Raises:
        SpecError: no name of a topic.
    """
    if re.fullmatch(r"(/[A-Za-z_][A-Za-z0-9_]*)+", topic) is None:
        raise SpecError(f"topic {topic!r} is not a full name such as /camera/image_raw")
    return f"rt{topic}"


def type_on_the_wire(kind: type[Message]) -> str:
    """`sensor_msgs/msg/Image` -> `sensor_msgs::msg::dds_::Image_`."""
    package, folder, name = kind.NAME.split("/")
    return f"{package}::{folder}::dds_::{name}_"


@functools.cache
def dds_type(kind: type[Message]) -> Any:
    """The DDS type of a message, which carries one of ours: its own arrays would be Python lists."""
    fields = {name: _field(text) for name, text in kind.FIELDS.items()}
    made: Any = idl.make_idl_struct(
        kind.NAME.rpartition("/")[2] + "_", type_on_the_wire(kind).replace("::", "."), fields, dataclassify=True
    )

    def serialize(sample: Any, *_: Any, **__: Any) -> bytes:
        return cdr_from_message(sample.message)

    def deserialize(data: bytes, *_: Any, **__: Any) -> Any:
        # What cannot be read is an answer too: an exception here would hide the other messages of the same reading.
        sample = made.__new__(made)
        try:
            sample.message = message_from_cdr(kind, data)
        except BrixelError as error:
            sample.message = error
        return sample

    made.serialize = serialize
    made.deserialize = staticmethod(deserialize)
    return made


def _field(text: str) -> Any:
    if match := _SEQUENCE.fullmatch(text):
        kind = _PRIMITIVES[match[1]]
        return types.array[kind, int(match[2])] if match[2] else types.sequence[kind]
    return _PRIMITIVES[text] if text in _PRIMITIVES else dds_type(MESSAGES[text])


def _qos(quality: Quality) -> Qos:
    is_reliable = quality.reliability == "reliable"
    return Qos(
        Policy.Reliability.Reliable(duration(milliseconds=100)) if is_reliable else Policy.Reliability.BestEffort,
        Policy.History.KeepLast(quality.depth),
        Policy.Durability.TransientLocal if quality.is_kept else Policy.Durability.Volatile,
        # ROS 2 speaks the first version of CDR.
        Policy.DataRepresentation(use_cdrv0_representation=True),
    )


class DdsPublisher:
    """Of one topic."""

    def __init__(self, participant: DomainParticipant, topic: str, kind: type[Message], quality: Quality) -> None:
        self._type, qos = dds_type(kind), _qos(quality)
        self._writer: DataWriter[Any] | None = DataWriter(
            participant, Topic(participant, topic_on_the_wire(topic), self._type), qos=qos
        )

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody would receive a message."""
        return self._writer is not None and bool(self._writer.get_matched_subscriptions())

    def publish(self, message: Message) -> None:
        """Send one."""
        if (writer := self._writer) is None:
            return
        sample: Any = self._type.__new__(self._type)
        sample.message = message
        writer.write(sample)

    def close(self) -> None:
        """End the topic."""
        self._writer = None


class _DdsSubscription:
    def __init__(self, reader: DataReader[Any], callback: Callable[[Any], None], topic: str) -> None:
        self.reader, self._callback, self._topic = reader, callback, topic
        any_state = SampleState.NotRead | ViewState.Any | Instances.Any
        self.condition = ReadCondition(reader, any_state)
        self.is_closed = False

    def take(self) -> None:
        """Hand out what is there."""
        for sample in self.reader.take(N=16):
            message = getattr(sample, "message", None)  # none where a publisher only says that it ends
            if isinstance(message, BrixelError):
                _LOG.warning("%s: a message is left out: %s", self._topic, message)
            elif message is not None and not self.is_closed:
                self._callback(message)

    def close(self) -> None:
        """Hear no more; the transport's thread lets the reader go."""
        self.is_closed = True


class DdsTransport:
    """One participant, and one thread that hands out what arrives.

    Args:
        domain: of DDS; None takes ROS_DOMAIN_ID.
    """

    def __init__(self, domain: int | None = None) -> None:
        self._participant: Any = DomainParticipant(domain_from_environment() if domain is None else domain)
        self._waitset = WaitSet(self._participant)
        self._subscriptions: list[_DdsSubscription] = []
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="brixel-dds", daemon=True)
        self._thread.start()

    def subscribe(
        self, topic: str, kind: type[Message], quality: Quality, callback: Callable[[Any], None]
    ) -> _DdsSubscription:
        """Call back with each message, from this transport's thread."""
        name = topic_on_the_wire(topic)
        reader = DataReader(self._participant, Topic(self._participant, name, dds_type(kind)), qos=_qos(quality))
        subscription = _DdsSubscription(reader, callback, topic)
        with self._lock:
            self._subscriptions.append(subscription)
            self._waitset.attach(subscription.condition)
        return subscription

    def publisher(self, topic: str, kind: type[Message], quality: Quality) -> DdsPublisher:
        """Begin a topic."""
        return DdsPublisher(self._participant, topic, kind, quality)

    def now_ns(self) -> int:
        """The system's clock, as ROS without simulation."""
        return time.time_ns()

    def close(self) -> None:
        """End all of it."""
        self._is_closing.set()
        self._thread.join(_JOIN_S)
        self._subscriptions, self._participant = [], None

    def _run(self) -> None:
        while not self._is_closing.is_set():
            self._waitset.wait(duration(milliseconds=_POLL_MS))
            with self._lock:
                for subscription in [entry for entry in self._subscriptions if entry.is_closed]:
                    self._waitset.detach(subscription.condition)
                    self._subscriptions.remove(subscription)
                here = list(self._subscriptions)
            for subscription in here:
                try:
                    subscription.take()
                except Exception:  # a callback's fault must not end the thread that all topics share
                    _LOG.exception("a message could not be handled")
