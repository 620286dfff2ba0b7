"""The thread between a source and the engine: decoding goes on while the engine computes.

The thread is a daemon that owns the source: a read that hangs in a driver can keep neither the consumer nor the end of
the process waiting. A second thread, the watchdog, looks at the clock: it knows a stall while the reader hangs in it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SourceError
from brixel_edge.machine.process_end import guard_process_end
from brixel_edge.runtimes.sources.frames import Frame, FrameSource, status_of
from brixel_edge.runtimes.stream.frame_queue import Arrival, Counters, Prepared, WaitingFrames
from brixel_edge.runtimes.stream.policies import Policy, policy_of_source
from brixel_edge.runtimes.stream.state import SourceState, State

_LOG = logging.getLogger(__name__)
_WATCH_S = 0.1
# Without a frame for so long, or for three of its frames, a live source is stalled.
_STALL_S, _STALLED_FRAMES = 1.0, 3
# Frames that are older on arrival make a source degraded, where no policy says another age.
_LATE_S = 1.0
# Two frames that differ do so nearly always in every 16th row.
_GLANCE_ROWS = 16


class FrameReader(Generic[Prepared]):
    """Reads a source in a thread of its own.

    Args:
        source: read, interrupted and closed here.
        prepare: work to do in this thread on each frame, where every one is used; returns the result and its bytes.
        queue_bytes: bound on what waits; one frame may always wait.
        policy: which frames are used; None takes that of the source's kind.
        give_up_s: without a frame for so long a live source counts as lost.
        name: of the source, for people.
        changed: notified when something is there to take; several readers may share one.
    """

    def __init__(
        self,
        source: FrameSource,
        prepare: Callable[[Frame], tuple[Prepared, int]],
        queue_bytes: int,
        policy: Policy | None = None,
        give_up_s: float = 60.0,
        name: str | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        self.source, self._prepare = source, prepare
        self.policy = policy or policy_of_source(source.is_live)
        self.name = name or source.description
        self._waiting: WaitingFrames[Prepared] = WaitingFrames(self.policy, queue_bytes)
        self._give_up_s = give_up_s
        self.changed = changed or threading.Condition()
        self.error: BaseException | None = None
        self._ended = self._stopped = self._waits_for_room = False
        stall_s = max(_STALL_S, _STALLED_FRAMES / source.fps if source.fps else 0.0)
        self._state = SourceState(
            time.monotonic(), stall_s if source.is_live else None, self.policy.max_age_s or _LATE_S
        )
        self._before: NDArray[np.uint8] | None = None
        self._thread = threading.Thread(target=self._run, name="brixel-reader", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="brixel-watchdog", daemon=True)
        guard_process_end()
        self._thread.start()
        self._watchdog.start()

    @property
    def counters(self) -> Counters:
        """The counts of the frames so far."""
        with self.changed:
            return self._waiting.counters(status_of(self.source).drained)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come; `error` says why."""
        return (self._ended or self._stopped or self.error is not None) and not len(self._waiting)

    def poll(self) -> Arrival[Prepared] | None:
        """The next frame, if there is one; the caller holds `changed`."""
        arrival = self._waiting.take(time.monotonic())
        if arrival is not None:
            self.changed.notify_all()
        return arrival

    def take(self) -> Arrival[Prepared] | None:
        """The next frame, waiting for it; None at the end.

        Raises:
            BrixelError: what ended the source.
        """
        taken = take_from([self])
        return None if taken is None else taken[1]

    def health(self) -> dict[str, Any]:
        """State, counts and ages as plain JSON values."""
        now_s = time.monotonic()
        status, counters = status_of(self.source), self.counters
        with self.changed:
            state = self._state
            last_s = state.last_frame_s
            return {
                "source": self.name,
                "state": state.state.value,
                "reason": state.reason,
                "in_state_s": round(now_s - state.since_s, 3),
                "last_frame_s": None if last_s is None else round(now_s - last_s, 3),
                "policy": str(self.policy),
                "reconnects": status.reconnects,
                "skipped": self.source.skipped,
                **{name: getattr(counters, name) for name in Counters.__dataclass_fields__},
                "entered": {entered.value: count for entered, count in state.entered.items()},
            }

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop reading; waits for the thread for a bounded time only."""
        with self.changed:
            self._stopped = True
            self.changed.notify_all()
        self.source.interrupt()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stopped and (frame := self.source.read()) is not None:
                self._put(self._arrival(frame))
        except BaseException as error:
            # Handed to the consumer, which raises it; nothing may end this thread silently.
            self._fail(error)
        finally:
            self.source.close()
            with self.changed:
                self._ended, self._before = True, None
                self._state.end(time.monotonic())
                self.changed.notify_all()

    def _arrival(self, frame: Frame) -> Arrival[Prepared]:
        if not self.policy.keeps_all:
            return Arrival(frame=frame, prepared=None, preprocess_s=0.0, size_bytes=frame.image.nbytes)
        start = time.monotonic()
        prepared, size = self._prepare(frame)
        taken_s = time.monotonic() - start
        return Arrival(frame=frame, prepared=prepared, preprocess_s=taken_s, size_bytes=size + frame.image.nbytes)

    def _put(self, arrival: Arrival[Prepared]) -> None:
        is_repeated = self.source.is_live and self._repeats(arrival.frame.image)
        with self.changed:
            now_s = time.monotonic()
            self._state.frame(now_s, now_s - arrival.frame.t_capture_s, is_repeated=is_repeated)
            while not self._waiting.has_room(arrival.size_bytes) and not self._stopped:
                self._waits_for_room = True
                self.changed.wait()
            # Waiting for the engine is no fault of the source.
            self._waits_for_room, self._state.last_frame_s = False, time.monotonic()
            self._waiting.put(arrival, is_repeated=is_repeated)
            self.changed.notify_all()

    def _repeats(self, image: NDArray[np.uint8]) -> bool:
        before, self._before = self._before, image
        if before is None or before.shape != image.shape:
            return False
        return np.array_equal(before[::_GLANCE_ROWS], image[::_GLANCE_ROWS]) and np.array_equal(before, image)

    def _watch(self) -> None:
        """The clock's view of the source, from outside of the thread that may hang in it."""
        with self.changed:
            while not (self._ended or self._stopped):
                self.changed.wait(_WATCH_S)
                now_s = time.monotonic()
                before = self._state.state
                if not self._waits_for_room:
                    self._state.tick(now_s, status_of(self.source).failure)
                if self._state.state is State.STALLED and before is not State.STALLED:
                    _LOG.warning("%s is stalled: %s", self.name, self._state.reason)
                last_s = self._state.last_frame_s or self._state.since_s
                is_lost = self.source.is_live and not self._waits_for_room and now_s - last_s > self._give_up_s
                if is_lost and status_of(self.source).failure is None:
                    break
            else:
                return
        self._fail(SourceError(f"{self.name} gave no frame for {self._give_up_s:.0f} s", kind="timeout"))
        self.source.interrupt()

    def _fail(self, error: BaseException) -> None:
        with self.changed:
            if self.error is None:
                self.error = error
                self._state.fail(time.monotonic(), getattr(error, "kind", None) or type(error).__name__)
            self.changed.notify_all()


def take_from(readers: Sequence[FrameReader[Prepared]], first: int = 0) -> tuple[int, Arrival[Prepared]] | None:
    """The next frame of any reader, waiting for it, with the reader's number; None when all are at their end.

    Args:
        readers: they share one `changed`.
        first: which to ask first; who asks the next one each time is fair to all.

    Raises:
        BrixelError: what ended one of them, when all are over.
    """
    changed = readers[0].changed
    with changed:
        while True:
            for turn in range(len(readers)):
                number = (first + turn) % len(readers)
                if (arrival := readers[number].poll()) is not None:
                    return number, arrival
            if all(reader.is_over for reader in readers):
                break
            changed.wait(0.5)
    errors = [reader.error for reader in readers if reader.error is not None]
    if errors:
        raise errors[0]
    return None
