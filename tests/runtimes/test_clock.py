"""True age from stamps and arrivals: a world with a sender, a way and buffers, whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from brixel_edge.runtimes.sources.clock import StreamClock

BOUND_S = 0.150
SENDER_S = 4321.0  # what the sender's clock shows at our zero


class World:
    """Frames are taken at `taken`, can be read from `ready` on; reading one takes `work_s`."""

    def __init__(self, taken, ready, opened_s, first_read_s=None, work_s=0.004, drift=0.0):
        self.now_s = opened_s if first_read_s is None else first_read_s
        self.taken, self.ready, self.work_s, self.drift = taken, ready, work_s, drift
        self.clock = StreamClock(opened_s)
        self.stamps = []

    def run(self):
        """Read everything; (true age, said age, stamp) of each frame."""
        rows = []
        for taken_s, ready_s in zip(self.taken, self.ready, strict=True):
            asked_s = self.now_s
            self.now_s = max(self.now_s, ready_s) + self.work_s
            stamp = self.clock.stamp(SENDER_S + taken_s * (1 + self.drift), asked_s, self.now_s)
            assert stamp.t_capture_s <= self.now_s
            rows.append((self.now_s - taken_s, self.now_s - stamp.t_capture_s, stamp))
        return rows


def steady(start_s, count, fps=30.0, delay_s=0.05, jitter_s=0.0):
    taken = start_s + np.arange(count) / fps
    jitter = np.abs(np.random.default_rng(0).normal(0, jitter_s, count)) if jitter_s else 0.0
    return taken, np.maximum.accumulate(taken + delay_s + jitter)


def sure(rows):
    return [(true, said) for true, said, stamp in rows if stamp.is_sure]


def never_young(rows):
    assert max(true - said for true, said in rows) < BOUND_S


@pytest.mark.parametrize("fps", [2.0, 10.0, 30.0, 120.0])
@pytest.mark.parametrize("work_s", [0.001, 0.004])
def test_the_burst_at_a_start_is_seen_through(fps, work_s):
    """Opening takes 1.2 s, in which a library has buffered what came in."""
    taken, ready = steady(0.1, int(6 * fps) + 8, fps)
    rows = World(taken, ready, opened_s=0.0, first_read_s=1.2, work_s=work_s).run()
    assert len(sure(rows)) > len(rows) / 3
    never_young(sure(rows))
    assert max(said - true for true, said in sure(rows)) < 0.05
    # What is not sure is said to be too old, not too young.
    assert max(true - said for true, said, _ in rows) < BOUND_S


def test_a_server_s_older_frames_are_not_taken_for_young():
    """A cache gives 4 s from before the connection, at once."""
    taken, ready = steady(-4.0, 400)
    rows = World(taken, np.maximum(ready, 0.2), opened_s=0.0).run()
    never_young(sure(rows))
    assert sure(rows)[-1][1] < 0.1


def test_a_burst_that_drains_slowly_is_waited_for():
    """Decoding takes 28 of the 33 ms between frames."""
    taken, ready = steady(0.0, 900)
    rows = World(taken, ready, opened_s=0.0, first_read_s=1.5, work_s=0.028).run()
    never_young(sure(rows))
    assert len(sure(rows)) > 300


def test_a_decoder_that_never_catches_up_is_never_sure_of_youth():
    taken, ready = steady(0.0, 300)
    rows = World(taken, ready, opened_s=0.0, first_read_s=1.5, work_s=0.05).run()
    assert max(true - said for true, said, _ in rows) < BOUND_S


def test_frames_that_waited_out_a_stall_are_old():
    """Stopped for 8 s: the frames before it come after it, in a burst."""
    taken, ready = steady(0.0, 900, jitter_s=0.01)
    during = (taken > 10) & (taken < 18)
    ready = np.maximum.accumulate(np.where(during, 18.0, ready))
    rows = World(taken, ready, opened_s=0.0).run()
    never_young(sure(rows))
    assert max(said for true, said in sure(rows) if true > 7) > 7
    assert rows[-1][1] < 0.1


def test_jitter_makes_no_frame_young():
    taken, ready = steady(0.0, 3000, jitter_s=0.03)
    never_young(sure(World(taken, ready, opened_s=0.0).run()))


@pytest.mark.parametrize("drift", [-60e-6, 60e-6])
def test_ages_stay_right_for_hours_of_drift(drift):
    taken, ready = steady(0.0, 4 * 3600, fps=1.0)
    rows = sure(World(taken, ready, opened_s=0.0, drift=drift).run())
    never_young(rows)
    assert rows[-1][1] < 0.2


def test_a_time_line_that_begins_anew_is_seen_and_not_trusted():
    clock = StreamClock(0.0)
    stamps = [100 + index / 30 for index in range(90)] + [5 + index / 30 for index in range(90)]
    rows = [clock.stamp(stamp_s, index / 30, index / 30 + 0.02) for index, stamp_s in enumerate(stamps)]
    assert [index for index, row in enumerate(rows) if row.is_new_line] == [90]
    assert rows[89].is_sure
    assert not rows[90].is_sure
    assert rows[-1].is_sure
    assert rows[-1].t_capture_s == pytest.approx(179 / 30 + 0.02, abs=1e-6)


def test_stamps_that_leap_ahead_are_another_line():
    clock = StreamClock(0.0)
    rows = [clock.stamp(index / 30 + (50 if index >= 60 else 0), index / 30, index / 30 + 0.02) for index in range(120)]
    assert [index for index, row in enumerate(rows) if row.is_new_line] == [60]
    assert rows[-1].is_sure
