"""The batches of an epoch, and the threads that decode ahead of it."""

import itertools

import numpy as np
import pytest

from brixel_edge.errors import DataError
from brixel_edge.training.epochs import check_batch, epoch_batches


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


def test_batches_that_cannot_be_are_refused(eligible):
    with pytest.raises(DataError, match="batch 5 does not divide among 2 processes; use 4"):
        check_batch(eligible, 5, 2, 0)
    with pytest.raises(DataError, match="49 of 50 photographs are large enough"):
        check_batch(eligible, 60, 1, 0)
    check_batch(eligible, 4, 2, 0)
