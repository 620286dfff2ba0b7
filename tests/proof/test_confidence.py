"""Lower bounds by resampling photographs, against cases that can be reckoned by hand."""

import numpy as np
import pytest

from brixel_edge.proof.confidence import lower_bounds


def test_equal_photographs_leave_no_doubt():
    cells = np.linspace(0.9, 1, 401)
    found = lower_bounds([cells] * 12, [0.98] * 12, range(12), seed=0)
    assert found.mean == pytest.approx(0.95)
    assert found.p01 == pytest.approx(np.percentile(cells, 1), abs=3e-4)
    assert found.agreement == pytest.approx(0.98)
    assert (found.confidence, found.photographs) == (0.95, 12)


def test_the_mean_is_bounded_as_by_the_normal_law():
    """Photographs without spread inside: the mean of n draws has the deviation s / sqrt(n), and 5 % lie 1.645 below."""
    means = np.random.default_rng(0).normal(0.99, 0.002, 100)
    found = lower_bounds([np.full(50, mean) for mean in means], [1.0] * 100, range(100), seed=1)
    assert found.mean == pytest.approx(means.mean() - 1.645 * means.std() / 10, abs=1e-4)


def test_one_bad_photograph_of_many_lowers_the_worst_percent():
    """1 photograph of 20 has 10 % bad cells: 0.5 % of all, so the figure passes; drawn thrice (8 %) it does not."""
    good, bad = np.full(100, 0.99), np.concatenate([np.full(10, 0.5), np.full(90, 0.99)])
    everything = [bad, *[good] * 19]
    assert np.percentile(np.concatenate(everything), 1) == pytest.approx(0.99)
    assert lower_bounds(everything, [1.0] * 20, range(20), seed=0).p01 == pytest.approx(0.5)


def test_photographs_are_drawn_and_not_cells():
    """The same cells, shuffled over the photographs, leave hardly a doubt; as they are, they do."""
    rng = np.random.default_rng(0)
    photographs = [rng.normal(level, 0.001, 500) for level in rng.normal(0.97, 0.01, 10)]
    mixed = rng.permutation(np.concatenate(photographs)).reshape(10, 500)
    mean = float(np.mean(mixed))
    assert mean - lower_bounds(list(mixed), [1.0] * 10, range(10), seed=0).mean < 0.001
    assert mean - lower_bounds(photographs, [1.0] * 10, range(10), seed=0).mean > 0.003


def test_photographs_of_a_group_are_drawn_together():
    """Two groups, all of one good and all of the other bad: one draw of four takes the bad one twice."""
    cells = [np.full(9, 1.0)] * 10 + [np.full(9, 0.5)] * 10
    found = lower_bounds(cells, [1.0] * 20, [0] * 10 + [7] * 10, seed=0)
    assert (found.mean, found.photographs) == (0.5, 2)
    assert lower_bounds(cells, [1.0] * 20, range(20), seed=0).mean > 0.6


def test_the_seed_says_which_draws():
    rng = np.random.default_rng(3)
    cells = [rng.normal(0.98, 0.01, 30) for _ in range(9)]
    bounds = [lower_bounds(cells, [1.0] * 9, range(9), seed=seed) for seed in (4, 4, 5)]
    assert bounds[0] == bounds[1] != bounds[2]
