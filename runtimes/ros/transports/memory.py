"""Within one process: for tests, and for bags, whose time is that of their messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from brixel_edge.runtimes.ros.wire.messages import Message
from brixel_edge.runtimes.ros.wire.transport import Quality


class _MemorySubscription:
    def __init__(self, transport: MemoryTransport, topic: str, callback: Callable[[Any], None]) -> None:
        self.callback, self._of = callback, transport.subscriptions[topic]
        self._of.append(self)

    def close(self) -> None:
        """Hear no more."""
        if self in self._of:
            self._of.remove(self)


class _MemoryPublisher:
    def __init__(self, transport: MemoryTransport, topic: str) -> None:
        self._transport, self._topic = transport, topic

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody would receive a message."""
        return bool(self._transport.subscriptions[self._topic])

    def publish(self, message: Message) -> None:
        """Call back those who subscribe, in this thread."""
        for subscription in list(self._transport.subscriptions[self._topic]):
            subscription.callback(message)

    def close(self) -> None:
        """Nothing to end."""


class MemoryTransport:
    """Messages as they are, handed over at once.

    Attributes:
        subscriptions: by topic.
        time_ns: what the clock says.
    """

    def __init__(self, time_ns: int = 0) -> None:
        self.subscriptions: defaultdict[str, list[_MemorySubscription]] = defaultdict(list)
        self.time_ns = time_ns

    def subscribe(
        self, topic: str, kind: type[Message], quality: Quality, callback: Callable[[Any], None]
    ) -> _MemorySubscription:
        """Call back with each message."""
        return _MemorySubscription(self, topic, callback)

    def publisher(self, topic: str, kind: type[Message], quality: Quality) -> _MemoryPublisher:
        """Begin a topic."""
        return _MemoryPublisher(self, topic)

    def now_ns(self) -> int:
        """What was set."""
        return self.time_ns

    def close(self) -> None:
        """Forget who subscribes."""
        self.subscriptions.clear()
