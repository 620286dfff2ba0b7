"""What a supervisor hears of a node: that it lives, unless it has been at one and the same image since the last sign.

A node without images lives, however long it waits. One whose engine does not return gives no more signs, so that the
watchdog of the unit starts it anew; an engine may take as long for an image as the unit's WatchdogSec.
"""

from __future__ import annotations

from brixel_edge.machine.supervisor import Supervisor
from brixel_edge.runtimes.ros.node import FeatureNode


class SignsOfLife:
    """Of one node.

    Args:
        node: that works.
        supervisor: who is told; None takes the one of the environment, if any.
    """

    def __init__(self, node: FeatureNode, supervisor: Supervisor | None = None) -> None:
        self._node, self._supervisor = node, supervisor or Supervisor()
        self._last: int | None = None

    def began(self) -> None:
        """The node has its topics, and its model where it was to be configured."""
        self._supervisor.ready(f"{self._node.name} is {self._node.state}")

    def tick(self) -> None:
        """What is due; call it several times a second."""
        at_work = self._node.image_at_work
        if at_work is not None and at_work == self._last:
            return
        if self._supervisor.alive(f"{self._node.state}, {self._node.counters.processed} images"):
            self._last = at_work

    def ends(self) -> None:
        """No more images are taken."""
        self._supervisor.stopping()
