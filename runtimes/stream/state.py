"""The state of a source, as one small machine: what came when goes in, a word comes out.

    opening -> running <-> degraded, stalled, reconnecting -> failed, ended

The times are the caller's, so that a test can tell it any.
"""

from __future__ import annotations

from enum import Enum

# A frozen camera repeats itself for longer than a slow one, or than a still scene between two key frames.
_FROZEN_S = 1.0


class State(str, Enum):
    """What a source is doing; the value is what health reports say."""

    OPENING = "opening"
    RUNNING = "running"
    DEGRADED = "degraded"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    FAILED = "failed"
    ENDED = "ended"


_FINAL = (State.FAILED, State.ENDED)


class SourceState:
    """Follows one source.

    Args:
        now_s: the time of its opening [s].
        stall_s: a source without a frame for so long is stalled [s]; None for one that may wait.
        late_s: frames that are older on arrival make it degraded [s].

    Attributes:
        state: now.
        since_s: when it began [s].
        reason: why it is not running; empty while it is.
        entered: how often each state was entered.
    """

    def __init__(self, now_s: float, stall_s: float | None = 1.0, late_s: float = 1.0) -> None:
        self.state, self.since_s, self.reason = State.OPENING, now_s, ""
        self.entered = {State.OPENING: 1}
        self.last_frame_s: float | None = None
        self._stall_s, self._late_s = stall_s, late_s
        self._repeated_since_s: float | None = None

    def frame(self, now_s: float, age_s: float, *, is_repeated: bool = False) -> None:
        """A frame came in."""
        self.last_frame_s = now_s
        if not is_repeated:
            self._repeated_since_s = None
        elif self._repeated_since_s is None:
            self._repeated_since_s = now_s
        if self._repeated_since_s is not None and now_s - self._repeated_since_s >= _FROZEN_S:
            self._enter(State.DEGRADED, now_s, "repeats one frame")
        elif age_s > self._late_s:
            self._enter(State.DEGRADED, now_s, "frames arrive late")
        else:
            self._enter(State.RUNNING, now_s, "")

    def tick(self, now_s: float, failure: str | None = None) -> None:
        """Time has passed.

        Args:
            now_s: the time [s].
            failure: why the source is not open, while it is not.
        """
        if failure is not None:
            self._enter(State.RECONNECTING, now_s, failure)
        elif self.state in (State.RUNNING, State.DEGRADED) and self._is_silent(now_s):
            self._enter(State.STALLED, now_s, "no frame comes")

    def _is_silent(self, now_s: float) -> bool:
        if self._stall_s is None or self.last_frame_s is None:
            return False
        return now_s - self.last_frame_s > self._stall_s

    def fail(self, now_s: float, reason: str) -> None:
        """It is lost for good."""
        self._enter(State.FAILED, now_s, reason)

    def end(self, now_s: float) -> None:
        """It has come to its end, or was closed."""
        self._enter(State.ENDED, now_s, "")

    def _enter(self, state: State, now_s: float, reason: str) -> None:
        if self.state in _FINAL:
            return
        self.reason = reason
        if state is not self.state:
            self.state, self.since_s = state, now_s
            self.entered[state] = self.entered.get(state, 0) + 1
