"""A run as a service of systemd's: ready when source and model are open, alive as long as results come.

A wedged engine, or a camera that is silent without being reopened, gives no sign of life: then the watchdog of the unit
starts it anew. While a lost camera is being tried again the run lives; its own patience ends that.
"""

from __future__ import annotations

from brixel_edge.machine.supervisor import Supervisor


class Service:
    """Says how the run is.

    Args:
        supervisor: who is told; None takes the one of the environment, if any.
    """

    def __init__(self, supervisor: Supervisor | None = None) -> None:
        self._supervisor = supervisor or Supervisor()
        self._has_result = False

    def began(self, what: str) -> None:
        """Source and model are open."""
        self._supervisor.ready(what)
        self._has_result = True

    def has_result(self) -> None:
        """A result came."""
        self._has_result = True

    def tick(self, state: str) -> None:
        """What is due; call it several times a second.

        Args:
            state: of the source.
        """
        if (self._has_result or state == "reconnecting") and self._supervisor.alive():
            self._has_result = False

    def ends(self) -> None:
        """No more results are made."""
        self._supervisor.stopping()
