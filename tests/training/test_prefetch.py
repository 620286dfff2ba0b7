"""The threads that decode ahead of a batch in use."""

import threading
import time

import numpy as np
import pytest

from brixel_edge.training.photographs import UnusablePhotograph
from brixel_edge.training.prefetch import BatchJobs, prefetched
from brixel_edge.training.samples import Sample


def sample(number):
    pixels = np.full((2, 2, 3), number, np.uint8)
    return Sample(name=str(number), student=pixels, teacher=pixels)


def in_turn(jobs):
    return iter([BatchJobs(jobs=tuple(row), after={"batch": n + 1}) for n, row in enumerate(jobs)])


def test_batches_come_in_order_whichever_thread_is_faster():
    random = np.random.default_rng(0)

    def slow(number):
        time.sleep(random.random() / 100)
        return sample(number)

    jobs = [[lambda n=n: slow(n) for n in range(3 * b, 3 * b + 3)] for b in range(8)]
    batches = list(prefetched(in_turn(jobs), workers=4, depth=3))
    assert [batch.names for batch in batches] == [tuple(str(n) for n in range(3 * b, 3 * b + 3)) for b in range(8)]
    assert [batch.after["batch"] for batch in batches] == list(range(1, 9))
    assert batches[2].student[:, 0, 0, 0].tolist() == [6, 7, 8]


def test_the_next_batches_are_decoded_while_one_is_in_use_and_no_more_than_allowed():
    begun = [threading.Event() for _ in range(6)]
    jobs = [[lambda n=n: begun[n].set() or sample(n)] for n in range(6)]
    batches = prefetched(in_turn(jobs), workers=1, depth=2)
    next(batches)
    assert begun[1].wait(10) and begun[2].wait(10)
    time.sleep(0.05)
    assert not begun[3].is_set()
    batches.close()


def test_leaving_early_does_not_hang():
    endless = (BatchJobs(jobs=(lambda: sample(0),), after={}) for _ in iter(int, 1))
    before = set(threading.enumerate())
    batches = prefetched(endless, workers=2, depth=3)
    assert next(batches).names == ("0",)
    assert set(threading.enumerate()) > before
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    deadline_s = time.monotonic() + 30
    while set(threading.enumerate()) - before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


def unusable():
    raise UnusablePhotograph("damaged")


def test_a_photograph_that_cannot_be_used_gives_its_place_to_another_of_the_batch():
    jobs = [[lambda: sample(0), unusable, lambda: sample(2)], [unusable, unusable], [lambda: sample(5)]]
    batches = list(prefetched(in_turn(jobs), workers=2, depth=2))
    assert [batch.names for batch in batches] == [("0", "2", "2"), ("5",)]


def test_where_each_counts_once_its_place_stays_empty():
    jobs = [[lambda: sample(0), unusable, lambda: sample(2)]]
    assert next(prefetched(in_turn(jobs), workers=2, depth=2, is_filled=False)).names == ("0", "2")


def test_an_error_of_ours_is_not_swallowed():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(prefetched(in_turn([[broken]]), workers=1, depth=1))
