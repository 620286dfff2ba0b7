"""Bags of ROS 2, through rosbags: images out of one, and what a node publishes into one. No ROS is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from brixel_edge.errors import BundleError
from brixel_edge.runtimes.ros.wire.cdr import cdr_from_message, message_from_cdr
from brixel_edge.runtimes.ros.wire.messages import FeatureMapMessage, Message, definition
from brixel_edge.runtimes.ros.wire.transport import Publisher, Quality, Subscription, Transport


def types_of_bags() -> Any:
    """Rosbags' messages of ROS 2 and ours."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(definition(FeatureMapMessage), FeatureMapMessage.NAME))
    return store


class BagWriter:
    """A bag that is written; several threads may. Close it, or it cannot be read.

    Args:
        path: a folder that is not there yet.

    Raises:
        BundleError: it is there, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._types, self._connections = types_of_bags(), dict[str, Connection]()
        self._lock = threading.Lock()
        try:
            self._writer: Writer | None = Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise BundleError(f"no bag can be written at {path} ({error}); name a folder that is not there") from error

    def write(self, topic: str, message: Message, time_ns: int) -> None:
        """Add one message."""
        with self._lock:
            if self._writer is None:
                return
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(topic, message.NAME, typestore=self._types)
            self._writer.write(self._connections[topic], time_ns, cdr_from_message(message))

    def close(self) -> None:
        """Finish it; a second call does nothing."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
            self._writer = None


def messages_of_bag(path: Path, topics: dict[str, type[Message]]) -> Iterator[tuple[str, Any, int]]:
    """(topic, message, time [ns]) of some topics of a bag, in the order of their time.

    Args:
        path: of the bag.
        topics: what to read, with the message that it must be.

    Raises:
        BundleError: no bag, or it has a topic of another type.
    """
    try:
        with Reader(path) as reader:
            chosen = [connection for connection in reader.connections if connection.topic in topics]
            for connection in chosen:
                wanted = topics[connection.topic].NAME
                if connection.msgtype != wanted:
                    raise BundleError(f"{connection.topic} in {path} is {connection.msgtype}, not {wanted}")
            if not chosen:
                there = ", ".join(f"{entry.topic} ({entry.msgtype})" for entry in reader.connections)
                raise BundleError(f"{path} has none of {', '.join(topics)}; it has {there or 'nothing'}")
            for connection, time_ns, data in reader.messages(chosen):
                # A copy: the reader's memory is its own.
                yield connection.topic, message_from_cdr(topics[connection.topic], bytes(data)), time_ns
    except (ReaderError, OSError) as error:
        raise BundleError(f"{path} is not a readable bag ({error})") from error


class _RecordedPublisher:
    def __init__(self, inner: Publisher, bag: BagWriter, topic: str, now_ns: Callable[[], int]) -> None:
        self._inner, self._bag, self._topic, self._now_ns = inner, bag, topic, now_ns

    @property
    def has_subscribers(self) -> bool:
        """The bag is one."""
        return True

    def publish(self, message: Message) -> None:
        """Write and send."""
        self._bag.write(self._topic, message, self._now_ns())
        self._inner.publish(message)

    def close(self) -> None:
        """End the topic."""
        self._inner.close()


class RecordingTransport:
    """Another transport, with everything that is published also in a bag.

    Args:
        inner: that carries the messages.
        bag: closed with it.
    """

    def __init__(self, inner: Transport, bag: BagWriter) -> None:
        self._inner, self._bag = inner, bag

    def subscribe(
        self, topic: str, kind: type[Message], quality: Quality, callback: Callable[[Any], None]
    ) -> Subscription:
        """As the inner one."""
        return self._inner.subscribe(topic, kind, quality, callback)

    def publisher(self, topic: str, kind: type[Message], quality: Quality) -> Publisher:
        """Begin a topic, here and in the bag."""
        return _RecordedPublisher(self._inner.publisher(topic, kind, quality), self._bag, topic, self.now_ns)

    def now_ns(self) -> int:
        """As the inner one."""
        return self._inner.now_ns()

    def close(self) -> None:
        """End both."""
        self._inner.close()
        self._bag.close()
