"""The frames between a source and the engine, by a policy; every one of them is counted once.

No threads and no clock here: `FrameReader` brings both.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from brixel_edge.runtimes.sources.frames import Frame
from brixel_edge.runtimes.stream.policies import Policy

Prepared = TypeVar("Prepared")


@dataclass(frozen=True, kw_only=True)
class Arrival(Generic[Prepared]):
    """A frame with what was made of it in the reader's thread.

    Attributes:
        frame: as the source gave it.
        prepared: what `prepare` returned; None for frames that are prepared only if they are used.
        preprocess_s: what that took [s].
        size_bytes: of both.
    """

    frame: Frame
    prepared: Prepared | None
    preprocess_s: float
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Frames of a source: `frames_in == delivered + dropped + waiting`, at any time.

    Attributes:
        frames_in: that the source gave.
        delivered: handed to the engine.
        dropped: replaced by a newer one, too old, or read only to empty old buffers.
        waiting: neither yet.
        gaps: how often the source was lost or silent.
        repeated: of those that came in, the ones that equal the one before them to the bit.
    """

    frames_in: int = 0
    delivered: int = 0
    dropped: int = 0
    waiting: int = 0
    gaps: int = 0
    repeated: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(**{key: value + getattr(other, key) for key, value in dataclasses.asdict(self).items()})


class WaitingFrames(Generic[Prepared]):
    """A queue of a policy.

    Args:
        policy: which frames are kept.
        queue_bytes: bound on what waits, where all are kept; one frame may always wait.
    """

    def __init__(self, policy: Policy, queue_bytes: int) -> None:
        self._policy, self._queue_bytes = policy, queue_bytes
        self._frames: deque[Arrival[Prepared]] = deque()
        self._owes_gap = False
        self._delivered = self._dropped = self._gaps = self._repeated = 0

    def has_room(self, size_bytes: int) -> bool:
        """Whether a frame of that size may be put now."""
        held = sum(waiting.size_bytes for waiting in self._frames)
        return not self._policy.keeps_all or not self._frames or held + size_bytes <= self._queue_bytes

    def put(self, arrival: Arrival[Prepared], *, is_repeated: bool = False) -> None:
        """Add a frame; the newest replaces what waits, where not all are kept."""
        self._gaps += arrival.frame.is_after_gap
        self._repeated += is_repeated
        while self._frames and not self._policy.keeps_all:
            self._drop(self._frames.popleft())
        self._frames.append(arrival)

    def take(self, now_s: float) -> Arrival[Prepared] | None:
        """The next frame that is young enough; None where none waits.

        The first one after a gap says so, even if the frame that came after the gap itself was dropped.
        """
        while self._frames:
            arrival = self._frames.popleft()
            bound_s = self._policy.max_age_s
            if bound_s is not None and now_s - arrival.frame.t_capture_s > bound_s:
                self._drop(arrival)
                continue
            self._delivered += 1
            if self._owes_gap and not arrival.frame.is_after_gap:
                arrival = dataclasses.replace(arrival, frame=dataclasses.replace(arrival.frame, is_after_gap=True))
            self._owes_gap = False
            return arrival
        return None

    def _drop(self, arrival: Arrival[Prepared]) -> None:
        self._dropped += 1
        self._owes_gap |= arrival.frame.is_after_gap

    def __len__(self) -> int:
        return len(self._frames)

    def counters(self, drained: int = 0) -> Counters:
        """The counts.

        Args:
            drained: frames that the source itself threw away.
        """
        waiting, dropped = len(self._frames), self._dropped + drained
        return Counters(
            frames_in=self._delivered + dropped + waiting,
            delivered=self._delivered,
            dropped=dropped,
            waiting=waiting,
            gaps=self._gaps,
            repeated=self._repeated,
        )
