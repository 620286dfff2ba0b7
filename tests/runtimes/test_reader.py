"""The reading thread: newest only for live sources, everything for files, and no way to hang its consumer."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from brixel_edge.errors import BundleError, SourceError
from brixel_edge.runtimes.sources.frames import Frame, SourceStatus
from brixel_edge.runtimes.stream import reader as reader_module
from brixel_edge.runtimes.stream.policies import parse_policy
from brixel_edge.runtimes.stream.reader import FrameReader

SIZE = 1000 * 3


def frame(index, age_s=0.0, is_after_gap=False):
    return Frame(
        image=np.full((10, 100, 3), index % 256, np.uint8),
        index=index,
        t_capture_s=time.monotonic() - age_s,
        t_media_s=index / 10,
        capture_s=0.0,
        is_after_gap=is_after_gap,
    )


class ScriptedSource:
    """Gives what is in `frames`, waits for `go` before each, and records what happens to it."""

    fps = 10.0
    skipped = 0
    description = "scripted"

    def __init__(self, frames, is_live=False, has_to_wait=False, error=None):
        self.is_live = is_live
        self.go = threading.Semaphore(0) if has_to_wait else None
        self.error = error
        self.waiting = list(frames)
        self.reads = 0
        self.closed = self.interrupted = False

    def read(self):
        if self.go is not None:
            self.go.acquire()
        self.reads += 1
        if self.interrupted or not self.waiting:
            if self.error is not None:
                raise self.error
            return None
        return self.waiting.pop(0)

    def interrupt(self):
        self.interrupted = True
        if self.go is not None:
            self.go.release()

    def close(self):
        self.closed = True


def prepare(given):
    return given.index * 10, 0


def reader_of(source, **settings):
    return FrameReader(source, prepare, **{"queue_bytes": 10 * SIZE, **settings})


def wait_until(condition, timeout_s=5.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.002)


def drained(reader):
    arrivals = []
    while (arrival := reader.take()) is not None:
        arrivals.append(arrival)
    return arrivals


def test_a_file_is_read_whole_in_order_and_prepared_ahead():
    source = ScriptedSource([frame(index) for index in range(50)])
    reader = reader_of(source)
    arrivals = drained(reader)
    assert [arrival.frame.index for arrival in arrivals] == list(range(50))
    assert [arrival.prepared for arrival in arrivals] == [index * 10 for index in range(50)]
    assert (reader.counters.frames_in, reader.counters.dropped) == (50, 0)
    wait_until(lambda: source.closed)


def test_what_waits_is_bounded_in_bytes():
    source = ScriptedSource([frame(index) for index in range(50)])
    reader = reader_of(source, queue_bytes=3 * SIZE)
    wait_until(lambda: source.reads == 4)  # three wait, the fourth is in the hand of the thread
    time.sleep(0.05)
    assert source.reads == 4
    assert reader.take().frame.index == 0
    wait_until(lambda: source.reads == 5)
    assert len(drained(reader)) == 49


def test_one_frame_may_always_wait():
    reader = reader_of(ScriptedSource([frame(index) for index in range(3)]), queue_bytes=1)
    assert len(drained(reader)) == 3


def test_a_live_source_keeps_the_newest_and_counts_what_it_replaces():
    source = ScriptedSource([frame(index) for index in range(5)], is_live=True, has_to_wait=True)
    reader = reader_of(source)
    for _ in range(4):
        source.go.release()
    wait_until(lambda: reader.counters.frames_in == 4)
    arrival = reader.take()
    assert arrival.frame.index == 3
    assert arrival.prepared is None  # only what is used is worth the work
    source.go.release()
    assert reader.take().frame.index == 4
    assert (reader.counters.frames_in, reader.counters.dropped) == (5, 3)
    reader.close()


def test_frames_are_conserved_whatever_the_speeds():
    """Delivered and dropped ones together are those that came in, in rising order."""
    rng = np.random.default_rng(0)

    class Jittery(ScriptedSource):
        def read(self):
            time.sleep(float(rng.random()) * 0.002)
            given = super().read()
            return None if given is None else frame(given.index)

    reader = reader_of(Jittery([frame(index) for index in range(200)], is_live=True))
    indices = []
    while (arrival := reader.take()) is not None:
        indices.append(arrival.frame.index)
        time.sleep(0.003)
    assert indices == sorted(set(indices))
    assert len(indices) + reader.counters.dropped == reader.counters.frames_in == 200


def test_stale_frames_of_a_live_source_are_dropped():
    source = ScriptedSource([frame(0, age_s=30), frame(1)], is_live=True, has_to_wait=True)
    reader = reader_of(source, policy=parse_policy("max-age=1000"))
    source.go.release()
    wait_until(lambda: reader.counters.frames_in == 1)
    threading.Timer(0.1, source.go.release).start()
    assert reader.take().frame.index == 1
    assert reader.counters.dropped == 1
    reader.close()


def test_frames_of_a_file_have_no_age():
    reader = reader_of(ScriptedSource([frame(0, age_s=30)]))
    assert reader.take().frame.index == 0


def test_gaps_are_counted():
    reader = reader_of(ScriptedSource([frame(0), frame(1, is_after_gap=True)]))
    drained(reader)
    assert reader.counters.gaps == 1


def test_an_error_comes_after_the_frames_before_it():
    source = ScriptedSource([frame(0)], error=SourceError("lost for good"))
    reader = reader_of(source)
    assert reader.take().frame.index == 0
    for _ in range(2):
        with pytest.raises(SourceError, match="lost for good"):
            reader.take()
    assert source.closed


def test_an_error_of_the_preparation_reaches_the_consumer():
    def refuse(_):
        raise BundleError("no picture")

    reader = FrameReader(ScriptedSource([frame(0)]), refuse, queue_bytes=SIZE)
    with pytest.raises(BundleError, match="no picture"):
        reader.take()


def test_a_live_source_that_hangs_counts_as_lost():
    source = ScriptedSource([frame(0)], is_live=True, has_to_wait=True)
    reader = reader_of(source, give_up_s=0.2)
    with pytest.raises(SourceError, match="scripted gave no frame for 0 s"):
        reader.take()
    reader.close()


def test_closing_ends_a_consumer_s_wait_and_a_full_queue():
    hanging = ScriptedSource([frame(0)], is_live=True, has_to_wait=True)
    reader = reader_of(hanging)
    threading.Timer(0.1, reader.close).start()
    assert reader.take() is None
    wait_until(lambda: hanging.closed)

    full = ScriptedSource([frame(index) for index in range(50)])
    reader = reader_of(full, queue_bytes=1)
    wait_until(lambda: full.reads == 2)
    reader.close()
    wait_until(lambda: full.closed)


def test_closing_does_not_wait_for_a_driver_that_hangs():
    hang = threading.Event()

    class Hanging(ScriptedSource):
        def read(self):
            hang.wait()

    reader = reader_of(Hanging([], is_live=True))
    start = time.monotonic()
    reader.close(timeout_s=0.1)
    assert time.monotonic() - start < 1
    assert threading.main_thread().is_alive()
    hang.set()


def test_repeated_frames_of_a_frozen_camera_are_counted():
    def still(index):
        return frame(7)

    source = ScriptedSource([frame(0), still(1), still(2), still(3), frame(1)], is_live=True)
    reader = reader_of(source)
    wait_until(lambda: reader.counters.frames_in == 5)
    assert reader.counters.repeated == 2
    # Of a file, a still scene is what it is.
    reader = reader_of(ScriptedSource([still(0), still(1)]))
    wait_until(lambda: reader.counters.frames_in == 2)
    assert reader.counters.repeated == 0


def test_the_watchdog_sees_a_stall_while_the_reader_hangs_in_it(monkeypatch, warnings):
    monkeypatch.setattr(reader_module, "_STALL_S", 0.1)
    source = ScriptedSource([frame(0), frame(1)], is_live=True, has_to_wait=True)
    reader = reader_of(source, policy=parse_policy("latest"))
    assert reader.health()["state"] == "opening"
    source.go.release()
    wait_until(lambda: reader.health()["state"] == "running")
    wait_until(lambda: reader.health()["state"] == "stalled")  # read() of frame 1 has not returned
    assert reader.health()["reason"] == "no frame comes"
    assert "scripted is stalled: no frame comes" in warnings.text
    source.go.release()
    wait_until(lambda: reader.health()["state"] == "running")
    reader.close()
    wait_until(lambda: reader.health()["state"] == "ended")
    assert reader.health()["entered"] == {"opening": 1, "running": 2, "stalled": 1, "ended": 1}


def test_waiting_for_the_engine_is_no_stall(monkeypatch):
    monkeypatch.setattr(reader_module, "_STALL_S", 0.1)
    reader = reader_of(ScriptedSource([frame(index) for index in range(9)], is_live=True), queue_bytes=1,
                       policy=parse_policy("every"))  # fmt: skip
    time.sleep(0.4)
    assert reader.health()["state"] == "running"
    assert len(drained(reader)) == 9
    assert "stalled" not in reader.health()["entered"]


def test_a_source_that_is_opened_again_says_so_in_health():
    source = ScriptedSource([frame(0)], is_live=True, has_to_wait=True)
    source.status = SourceStatus(drained=3)
    reader = reader_of(source)
    source.go.release()
    wait_until(lambda: reader.health()["state"] == "running")
    source.status.failure = "refused"
    wait_until(lambda: reader.health()["state"] == "reconnecting")
    assert reader.health()["reason"] == "refused"
    health = reader.health()
    assert (health["frames_in"], health["dropped"], health["waiting"]) == (4, 3, 1)
    reader.close()


def test_a_failed_source_says_why():
    reader = reader_of(ScriptedSource([], error=SourceError("lost", kind="authentication")))
    with pytest.raises(SourceError):
        reader.take()
    assert (reader.health()["state"], reader.health()["reason"]) == ("failed", "authentication")
