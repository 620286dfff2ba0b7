"""When a frame was taken, from the stream's own time stamps and its arrival here.

A stamp says when a frame was taken on the sender's clock, up to an unknown constant; its arrival says when we had it.
The smallest (arrival - stamp) that was seen is that constant plus the shortest way, so a frame that waited somewhere on
its way arrives late by its stamp and is known to be old. At the start the constant is unknown: a library and a server
have buffered frames, which come in a burst. Until the burst is over nothing is sure, and until then the time at which
opening began stands in, which makes frames too old rather than too young.
"""

from __future__ import annotations

from dataclasses import dataclass

# Two stretches whose smallest offsets agree by so much follow the sender's pace: the buffers are empty.
_STRETCH_S, _STRETCH_FRAMES, _AGREEMENT_S = 0.25, 2, 0.015
# Of slow streams a read that waited for half a frame's time shows it too, where decoding is far quicker than that.
_SLOW_S = 0.2
# Clocks drift: cheap quartz up to 100 parts per million.
_DRIFT = 100e-6
# Stamps that go back, or run ahead by so much, belong to another time line.
_JUMP_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What is known of a frame.

    Attributes:
        t_capture_s: when it was taken, `time.monotonic()` [s]; never later than its arrival.
        is_sure: whether the relation of the clocks is known; else the time is too early rather than too late.
        is_new_line: the stamps jumped: another time line begins.
    """

    t_capture_s: float
    is_sure: bool
    is_new_line: bool = False


class StreamClock:
    """Relates the stamps of one connection to `time.monotonic()`.

    Args:
        opened_s: when opening it began [s].
    """

    def __init__(self, opened_s: float) -> None:
        self._opened_s = opened_s
        self._stamp_s: float | None = None
        self._arrival_s = opened_s
        self._begin(opened_s)

    def _begin(self, not_before_s: float) -> None:
        self._floor_s: float | None = None
        self._not_before_s = not_before_s
        self._smallest_s = float("inf")
        self._stretch: list[tuple[float, float]] = []
        self._stretch_before_s: float | None = None
        self.is_sure = False

    def stamp(self, stamp_s: float, asked_s: float, arrival_s: float) -> Stamp:
        """When a frame was taken.

        Args:
            stamp_s: of the stream [s].
            asked_s: when reading it began [s].
            arrival_s: when it was here [s].
        """
        is_new_line = self._jumps(stamp_s, arrival_s)
        if is_new_line:
            self._begin(self._arrival_s)
        interval_s = stamp_s - self._stamp_s if self._stamp_s is not None and not is_new_line else 0.0
        offset_s = arrival_s - stamp_s
        if self._floor_s is None:
            self._floor_s = self._not_before_s - stamp_s
        drifted_s = self._smallest_s + _DRIFT * (arrival_s - self._arrival_s)
        self._smallest_s = min(drifted_s, offset_s)
        self._stamp_s, self._arrival_s = stamp_s, arrival_s
        if not self.is_sure:
            waited = interval_s >= _SLOW_S and arrival_s - asked_s >= interval_s / 2
            self.is_sure = self._agrees(offset_s, arrival_s) or waited
        constant_s = self._smallest_s if self.is_sure else min(self._smallest_s, self._floor_s)
        return Stamp(t_capture_s=min(arrival_s, stamp_s + constant_s), is_sure=self.is_sure, is_new_line=is_new_line)

    def _jumps(self, stamp_s: float, arrival_s: float) -> bool:
        if self._stamp_s is None:
            return False
        ahead_s = self._smallest_s - (arrival_s - stamp_s)
        return stamp_s < self._stamp_s or (self.is_sure and ahead_s > _JUMP_S)

    def _agrees(self, offset_s: float, arrival_s: float) -> bool:
        """Whether the stretch that ends here has the smallest offset of the one before it."""
        self._stretch.append((arrival_s, offset_s))
        if len(self._stretch) <= _STRETCH_FRAMES or arrival_s - self._stretch[0][0] < _STRETCH_S:
            return False
        smallest_s = min(offset for _, offset in self._stretch)
        before_s, self._stretch_before_s = self._stretch_before_s, smallest_s
        self._stretch = [(arrival_s, offset_s)]
        return before_s is not None and abs(smallest_s - before_s) < _AGREEMENT_S
