"""A node that is told what to do by text: its life and its parameters over one topic, where there are no services.

ros2 topic pub --once /brixel/command std_msgs/msg/String "{data: deactivate}"
ros2 topic pub --once /brixel/command std_msgs/msg/String "{data: set threshold=0.7}"
"""

from __future__ import annotations

import queue
from collections.abc import Callable

from brixel_edge.errors import BrixelError, SpecError
from brixel_edge.runtimes.ros.node import FeatureNode
from brixel_edge.runtimes.ros.parameters import assignment
from brixel_edge.runtimes.ros.wire.messages import String
from brixel_edge.runtimes.ros.wire.transport import Quality, Transport

TRANSITIONS = ("configure", "activate", "deactivate", "cleanup", "shutdown")
# More than anybody types; a flood of commands is not kept.
_MOST_WAITING = 16


def obey(node: FeatureNode, text: str) -> None:
    """Do what a line of text says.

    Raises:
        SpecError: no such command, or not now.
        BrixelError: it failed.
    """
    word, _, rest = text.strip().partition(" ")
    if word == "set":
        node.set_parameters(dict(assignment(part) for part in rest.split()))
    elif word in TRANSITIONS and not rest:
        getattr(node, word)()
    else:
        raise SpecError(f"command {text[:80]!r} is none of {', '.join(TRANSITIONS)}, or set NAME=VALUE ...")


class CommandTopic:
    """Commands wait here until the main thread obeys: loading a model must not hold up the thread of all topics.

    Args:
        transport: that they come by.
        node: that obeys.
        say: where a line goes.
    """

    def __init__(self, transport: Transport, node: FeatureNode, say: Callable[[str], None]) -> None:
        self._node, self._say = node, say
        self._waiting: queue.Queue[str] = queue.Queue(_MOST_WAITING)
        quality = Quality(depth=_MOST_WAITING, reliability="reliable")
        self._subscription = transport.subscribe(f"/{node.name}/command", String, quality, self._hear)

    def obey_next(self, timeout_s: float) -> None:
        """Obey one command, waiting for it so long; what cannot be done is said, and noted in the node's state."""
        try:
            text = self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            return
        try:
            obey(self._node, text)
            self._say(f"{text}: done; {self._node.state}")
        except BrixelError as error:
            self._say(f"{text}: {error}")
            self._node.note_failure(error)

    def _hear(self, message: String) -> None:
        if not self._waiting.full():
            self._waiting.put_nowait(message.data)
