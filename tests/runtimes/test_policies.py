"""Which frames are used, and that each is counted once: the queue without threads or clocks."""

from __future__ import annotations

import random

import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.sources.frames import Frame
from brixel_edge.runtimes.stream.frame_queue import Arrival, WaitingFrames
from brixel_edge.runtimes.stream.policies import Policy, parse_policy, policy_of_source

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
