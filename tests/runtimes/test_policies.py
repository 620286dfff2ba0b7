"""Which frames are used, and that each is counted once: the queue without threads or clocks."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.sources.frames import Frame
from brixel_edge.runtimes.sources.iterables import IterableSource
from brixel_edge.runtimes.sources.pacing import PacedSource
from brixel_edge.runtimes.stream.frame_queue import Arrival, WaitingFrames
from brixel_edge.runtimes.stream.policies import Policy, parse_policy, policy_of_source
from brixel_edge.runtimes.stream.stream import Stream

IMAGE = np.zeros((2, 2, 3), np.uint8)


def arrival(index, t_capture_s=0.0, is_after_gap=False):
    frame = Frame(
        image=IMAGE, index=index, t_capture_s=t_capture_s, t_media_s=0.0, capture_s=0.0, is_after_gap=is_after_gap
    )
    return Arrival(frame=frame, prepared=None, preprocess_s=0.0, size_bytes=100)


def test_policies_are_read():
    assert parse_policy("latest") == Policy(keeps_all=False, max_age_s=None)
    assert parse_policy("every") == Policy(keeps_all=True)
    assert parse_policy("max-age=150") == Policy(keeps_all=False, max_age_s=0.15)
    assert [str(parse_policy(text)) for text in ("latest", "every", "max-age=150")] == [
        "latest",
        "every",
        "max-age=150",
    ]
    assert policy_of_source(is_live=True) == parse_policy("max-age=1000")
    assert policy_of_source(is_live=False) == parse_policy("every")


@pytest.mark.parametrize(
    "text",
    ["newest", "", "max-age", "max-age=", "max-age=old", "max-age=0", "max-age=-1", "max-age=inf", "max-age=nan"],
)
def test_what_is_no_policy_is_refused(text):
    with pytest.raises(SpecError, match="is not latest, every or max-age=MS; for instance max-age=200"):
        parse_policy(text)


def test_the_newest_replaces_what_waits():
    waiting = WaitingFrames(parse_policy("latest"), 0)
    for index in range(3):
        assert waiting.has_room(10**9)
        waiting.put(arrival(index))
    assert waiting.take(now_s=1e6).frame.index == 2
    assert waiting.take(now_s=1e6) is None
    assert waiting.counters().dropped == 2


def test_every_frame_waits_within_the_bytes():
    waiting = WaitingFrames(parse_policy("every"), 250)
    for index in range(2):
        assert waiting.has_room(100)
        waiting.put(arrival(index))
    assert not waiting.has_room(100)
    assert [waiting.take(1e6).frame.index for _ in range(2)] == [0, 1]
    assert WaitingFrames(parse_policy("every"), 0).has_room(100)


def test_what_is_too_old_when_its_turn_comes_is_dropped():
    waiting = WaitingFrames(parse_policy("max-age=200"), 0)
    waiting.put(arrival(0, t_capture_s=10.0))
    assert waiting.take(now_s=10.3) is None
    waiting.put(arrival(1, t_capture_s=10.2))
    assert waiting.take(now_s=10.3).frame.index == 1
    assert waiting.counters().dropped == 1


@pytest.mark.parametrize("policy", ["latest", "max-age=200"])
def test_a_gap_is_not_lost_with_the_frame_that_had_it(policy):
    waiting = WaitingFrames(parse_policy(policy), 0)
    waiting.put(arrival(0, t_capture_s=9.0, is_after_gap=True))
    assert policy == "latest" or waiting.take(now_s=10.0) is None
    for index in (1, 2):
        waiting.put(arrival(index, t_capture_s=10.0))
    taken = waiting.take(now_s=10.0).frame
    assert (taken.index, taken.is_after_gap) == (2, True)
    waiting.put(arrival(3, t_capture_s=10.0))
    assert not waiting.take(now_s=10.0).frame.is_after_gap
    assert waiting.counters().gaps == 1


@pytest.mark.parametrize("policy", ["latest", "every", "max-age=50"])
def test_counters_add_up_whatever_happens(policy):
    """Any order of puts and takes: in = delivered + dropped + waiting, none twice, in rising order."""
    choose = random.Random(0)
    for _ in range(200):
        waiting, now_s, put, taken = WaitingFrames(parse_policy(policy), 500), 0.0, 0, []
        for _ in range(choose.randrange(60)):
            now_s += choose.random() * 0.05
            if choose.random() < 0.6:
                if waiting.has_room(100):
                    waiting.put(arrival(put, now_s - choose.random() * 0.1), is_repeated=choose.random() < 0.2)
                    put += 1
            elif (got := waiting.take(now_s)) is not None:
                taken.append(got.frame.index)
            counters = waiting.counters(drained=7)
            assert counters.frames_in == put + 7 == counters.delivered + counters.dropped + counters.waiting
            assert counters.delivered == len(taken)
            assert counters.waiting == len(waiting) <= (5 if policy == "every" else 1)
            assert policy != "every" or counters.dropped == 7
        assert taken == sorted(set(taken))


class Film:
    """Ten frames at 20 a second, decoded at once."""

    is_live, fps, skipped, description = False, 20.0, 0, "film"

    def __init__(self, slow_s=0.0):
        self.count, self.slow_s = 0, slow_s
        self.closed = False

    def read(self):
        if self.count == 10:
            return None
        time.sleep(self.slow_s)
        self.count += 1
        return Frame(image=IMAGE, index=self.count - 1, t_capture_s=0.0, t_media_s=(self.count - 1) / 20, capture_s=0.0)

    def interrupt(self):
        pass

    def close(self):
        self.closed = True


def test_a_file_under_a_policy_that_drops_plays_at_its_own_pace():
    """Else its decoder would outrun any engine, and nearly all would be dropped."""
    source = PacedSource(Film())
    start_s = time.monotonic()
    frames = [source.read() for _ in range(10)]
    assert time.monotonic() - start_s >= 9 / 20
    assert source.read() is None
    times = np.array([frame.t_capture_s for frame in frames])
    assert (np.diff(times) >= 1 / 20 - 1e-6).all()
    assert time.monotonic() - times[-1] < 60


def test_a_decoder_that_is_too_slow_makes_a_slow_film_and_no_old_frames(monkeypatch):
    source = PacedSource(Film(slow_s=0.1))
    for _ in range(5):
        asked_s = time.monotonic()
        assert source.read().t_capture_s >= asked_s + 0.1 - 1e-3


def test_a_paced_file_stops_at_once():
    source = PacedSource(Film())
    source.read()
    source.interrupt()
    assert source.read() is None
    source.close()
    assert source._source.closed


@pytest.mark.parametrize(
    ("policy", "is_paced"), [("latest", True), ("max-age=500", True), ("every", False), (None, False)]
)
def test_who_is_paced(policy, is_paced, graph):
    class Live(Film):
        is_live = True

    def own_frames():
        return None

    sources = [Film(), Live(), IterableSource(own_frames)]
    with open_model(graph, backend="ort") as model:
        stream = Stream(model, sources, policy=parse_policy(policy) if policy else None)
        assert [isinstance(source, PacedSource) for source in stream.sources] == [is_paced, False, False]
        stream.close()


def test_a_film_is_seen_whole_under_latest(graph):
    """The engine is quicker than the film, so no frame of it is missed by much; unpaced, one or two would be left."""
    with open_model(graph, backend="ort", threads=1) as model:
        stream = Stream(model, Film(), policy=parse_policy("latest"))
        indices = [result.features.frame_index for result in stream]
        counters = stream.counters
        stream.close()
    assert len(indices) >= 4
    assert counters.frames_in == 10 == counters.delivered + counters.dropped
