"""What a node needs of whatever carries its messages: subscriptions, publishers and a clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.ros.wire.messages import Message

Reliability = Literal["best_effort", "reliable"]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Quality of service of a topic, in ROS's words.

    Attributes:
        depth: messages that are kept; 1 keeps the newest.
        reliability: `reliable` sends again what was lost; a reliable subscriber does not hear a best-effort publisher.
        is_kept: the last message is given to those who come later (transient local).
    """

    depth: int = 1
    reliability: Reliability = "best_effort"
    is_kept: bool = False

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise SpecError(f"depth {self.depth} is not at least 1; 1 keeps the newest image alone")
        if self.reliability not in get_args(Reliability):
            raise SpecError(f"reliability {self.reliability!r} is not one of {', '.join(get_args(Reliability))}")


class Publisher(Protocol):
    """Of one topic."""

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody would receive a message."""
        ...

    def publish(self, message: Message) -> None:
        """Send one; any thread may."""
        ...

    def close(self) -> None:
        """End the topic; a second call does nothing."""
        ...


class Subscription(Protocol):
    """To one topic."""

    def close(self) -> None:
        """Hear no more; a second call does nothing."""
        ...


class Transport(Protocol):
    """Carries messages. Topics are named as in ROS, `/camera/image_raw`."""

    def subscribe(
        self, topic: str, kind: type[Message], quality: Quality, callback: Callable[[Any], None]
    ) -> Subscription:
        """Call back with each message, from a thread of the transport's; the callback must be quick."""
        ...

    def publisher(self, topic: str, kind: type[Message], quality: Quality) -> Publisher:
        """Begin a topic."""
        ...

    def now_ns(self) -> int:
        """The clock that headers are stamped by [ns since 1970]; a simulation's, where there is one."""
        ...

    def close(self) -> None:
        """End all of it; a second call does nothing."""
        ...
