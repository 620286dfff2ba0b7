"""The plan of an epoch, and the threads that decode ahead of it."""

import itertools
import threading
import time

import numpy as np
import pytest

from brixel_edge.errors import DataError
from brixel_edge.training.batches import LoadPlan, Sample, prefetched
from brixel_edge.training.epochs import check_plan, epoch_batches
from brixel_edge.training.photographs import UnusablePhotograph


def all_of(batches):
    return np.concatenate([batch.photographs for batch in batches]).tolist()


@pytest.fixture
def eligible():
    """50 photographs, two sizes: all fit the first, every second one also the second, the last one none."""
    table = np.ones((50, 2), bool)
    table[1::2, 1] = False
    table[49] = False
    return table


def test_an_epoch_sees_each_photograph_at_most_once_and_leaves_less_than_a_batch_a_size(eligible):
    batches = epoch_batches(eligible, 4, seed=3, epoch=0)
    seen = all_of(batches)
    assert len(seen) == len(set(seen)) and 49 not in seen
    assert 49 - len(seen) <= 2 * 3
    assert all(len(batch.photographs) == 4 for batch in batches)
    assert all(eligible[batch.photographs, batch.size_index].all() for batch in batches)


def test_over_epochs_every_photograph_is_seen_at_each_size_that_it_fits(eligible):
    seen = {
        (int(p), b.size_index)
        for epoch in range(40)
        for b in epoch_batches(eligible, 4, 0, epoch)
        for p in b.photographs
    }
    assert seen == {(int(p), int(s)) for p, s in zip(*np.nonzero(eligible), strict=True)}


def test_sizes_are_mixed_within_an_epoch_and_not_one_after_the_other():
    sizes = [batch.size_index for batch in epoch_batches(np.ones((400, 2), bool), 4, 0, 0)]
    changes = sum(a != b for a, b in itertools.pairwise(sizes))
    assert 0.4 < np.mean(sizes) < 0.6 and changes > 25


def test_seed_and_epoch_decide_the_order_and_nothing_else(eligible):
    first = all_of(epoch_batches(eligible, 4, 1, 2))
    assert first == all_of(epoch_batches(eligible, 4, 1, 2))
    assert first != all_of(epoch_batches(eligible, 4, 1, 3)) and first != all_of(epoch_batches(eligible, 4, 2, 2))


def test_processes_share_a_batch_in_order(eligible):
    batch = epoch_batches(eligible, 6, 0, 0)[0]
    parts = [batch.part(rank, 3) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert np.array_equal(np.concatenate(parts), batch.photographs)


def test_plans_that_cannot_be_are_refused(eligible):
    with pytest.raises(DataError, match="batch 5 does not divide among 2 processes; use 4"):
        check_plan(eligible, 5, 2, 0)
    with pytest.raises(DataError, match="49 of 50 photographs are large enough"):
        check_plan(eligible, 60, 1, 0)
    assert check_plan(eligible, 4, 2, 0) == len(epoch_batches(eligible, 4, 0, 0))


# ---- decoding ahead ----


def sample(number):
    pixels = np.full((2, 2, 3), number, np.uint8)
    return Sample(name=str(number), student=pixels, teacher=pixels)


def plans_of(jobs):
    return iter([LoadPlan(size=(2, 2), jobs=tuple(row), after={"batch": n + 1}) for n, row in enumerate(jobs)])


def test_batches_come_in_order_whichever_thread_is_faster():
    random = np.random.default_rng(0)

    def slow(number):
        time.sleep(random.random() / 100)
        return sample(number)

    jobs = [[lambda n=n: slow(n) for n in range(3 * b, 3 * b + 3)] for b in range(8)]
    batches = list(prefetched(plans_of(jobs), workers=4, depth=3))
    assert [batch.names for batch in batches] == [tuple(str(n) for n in range(3 * b, 3 * b + 3)) for b in range(8)]
    assert [batch.after["batch"] for batch in batches] == list(range(1, 9))
    assert batches[2].student[:, 0, 0, 0].tolist() == [6, 7, 8]


def test_the_next_batches_are_decoded_while_one_is_in_use_and_no_more_than_allowed():
    begun = [threading.Event() for _ in range(6)]
    jobs = [[lambda n=n: begun[n].set() or sample(n)] for n in range(6)]
    batches = prefetched(plans_of(jobs), workers=1, depth=2)
    next(batches)
    assert begun[1].wait(10) and begun[2].wait(10)
    time.sleep(0.05)
    assert not begun[3].is_set()
    batches.close()


def test_leaving_early_does_not_hang():
    endless = (LoadPlan(size=(2, 2), jobs=(lambda: sample(0),), after={}) for _ in iter(int, 1))
    batches = prefetched(endless, workers=2, depth=3)
    next(batches)
    batches.close()


def unusable():
    raise UnusablePhotograph("damaged")


def test_a_photograph_that_cannot_be_used_gives_its_place_to_another_of_the_batch():
    jobs = [[lambda: sample(0), unusable, lambda: sample(2)], [unusable, unusable], [lambda: sample(5)]]
    batches = list(prefetched(plans_of(jobs), workers=2, depth=2))
    assert [batch.names for batch in batches] == [("0", "2", "2"), ("5",)]


def test_where_each_counts_once_its_place_stays_empty():
    jobs = [[lambda: sample(0), unusable, lambda: sample(2)]]
    assert next(prefetched(plans_of(jobs), workers=2, depth=2, is_filled=False)).names == ("0", "2")


def test_an_error_of_ours_is_not_swallowed():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(prefetched(plans_of([[broken]]), workers=1, depth=1))
