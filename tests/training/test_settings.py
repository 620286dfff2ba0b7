"""Settings that cannot be, and the learning rate over a run."""

import dataclasses

import pytest

from brixel_edge.errors import SpecError
from brixel_edge.training.settings import learning_rate_at
from brixel_edge.training.views import ViewSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cache": "maps", "cache_budget_bytes": 10, "views": ViewSettings(crops="random")},
            "leave --cache or --crops",
        ),
        ({"cache": "maps"}, "--cache needs --cache-budget"),
        ({"batch": 0}, "batch 0 must be 1 or more"),
        ({"learning_rate": 0.0}, "above zero"),
        ({"drop_path": 1.0}, "below 1"),
        ({"schedule": "linear"}, "constant, cosine"),
        ({"adapter": "none"}, "nothing to train"),
        ({"adapter": "conv", "export_official": "x.pth"}, "paper's adapter"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, changes, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(settings, **changes)


def test_the_learning_rate_warms_up_and_then_follows_its_schedule(settings):
    assert [learning_rate_at(step, settings, 3, 10) for step in (0, 2, 3, 9)] == [1e-4, 1e-4, 1e-3, 1e-3]
    cosine = dataclasses.replace(settings, schedule="cosine")
    rates = [learning_rate_at(step, cosine, 2, 10) for step in range(2, 10)]
    assert rates[0] == 1e-3 and rates[4] == pytest.approx(5e-4) and rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
