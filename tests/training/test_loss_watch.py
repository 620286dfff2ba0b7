"""Losses that are no numbers stop a run, whichever term it is."""

import numpy as np
import pytest
import torch

from brixel_edge.errors import TrainingError
from brixel_edge.training.loss_watch import LossWatch
from brixel_edge.training.prefetch import Batch
from brixel_edge.training.processes import Processes


@pytest.fixture
def batch():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    return Batch(names=("a.jpg", "b.jpg"), student=pixels, teacher=None, samples=(), after={})


@pytest.mark.parametrize("broken", ["total", "l1", "edge"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_term_that_is_no_number_is_enough(batch, broken, value):
    watch = LossWatch(Processes(), None)
    terms = {name: torch.tensor(value if name == broken else 1.0) for name in ("total", "l1", "edge")}
    watch.add(batch, 7, 1e-3, terms)
    with pytest.raises(TrainingError, match=rf"the loss of step 7 is not a number .*{broken} {value}.*a\.jpg, b\.jpg"):
        watch.check()


def test_a_step_is_looked_at_when_the_next_one_comes(batch):
    watch = LossWatch(Processes(), None)
    watch.add(batch, 0, 1e-3, {"total": torch.tensor(2.0)})
    assert watch.last == {}
    watch.add(batch, 1, 1e-3, {"total": torch.tensor(3.0)})
    assert watch.last == {"total": 2.0}
    watch.check()
    watch.check()
    assert watch.last == {"total": 3.0}
