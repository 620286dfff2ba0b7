"""Answers of a head among what INT8 is judged by."""

import numpy as np
import pytest

from brixel_edge.calib.cells import compared_cells
from brixel_edge.calib.proof import Bounds, Judge
from brixel_edge.model.head import distinct_colours
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.proof.parity import cosines

CLASSES = HeadSpec(kind="segmentation", outputs=3, classes=("a", "b", "c"), colours=distinct_colours(3))


def cells_of(answer):
    """Cells of an answer (n, K) as calibration sees them."""
    return compared_cells("head", np.asarray(answer, np.float32).T[None, :, None])


def test_a_small_error_of_depth_near_one_metre_is_small():
    reference, candidate = cells_of([[0.01], [1.0]]), cells_of([[-0.01], [0.99]])
    assert reference.tolist() == pytest.approx(np.array([[0.01, 1], [1.0, 1]]))
    assert cosines(reference, candidate).min() > 0.999  # without the constant: -1
    features = np.ones((1, 4, 2, 2), np.float32)
    assert compared_cells("features", features).shape == (4, 4)


def judged(reference, candidate, head=CLASSES):
    judge = Judge(frames=(), groups=list(range(len(reference))), reference={"head": reference}, seed=0, threads=1,
                  head=head)  # fmt: skip
    return judge.closeness(reference, candidate, "head").shortfalls("head", Bounds())


def test_classes_that_change_are_counted_and_not_cosines():
    rng = np.random.default_rng(0)
    answers = [rng.normal(size=(400, 3)) * 5 for _ in range(8)]
    reference = [cells_of(answer) for answer in answers]
    assert judged(reference, [cells_of(answer + 0.02 * rng.normal(size=(400, 3))) for answer in answers]) == []
    turned = [np.where(np.arange(400)[:, None] < 40, answer[:, ::-1], answer) for answer in answers]
    (missed, *_) = judged(reference, [cells_of(answer) for answer in turned])
    assert "of the cells keep their class at 95% confidence, asked 0.95" in missed


def test_other_heads_are_judged_by_their_error():
    depth = HeadSpec(kind="depth", outputs=1)
    rng = np.random.default_rng(0)
    answers = [rng.normal(size=(400, 1)) + 1 for _ in range(4)]
    reference = [cells_of(answer) for answer in answers]
    assert judged(reference, [cells_of(answer + 0.01) for answer in answers], depth) == []
    (missed,) = judged(reference, [cells_of(answer + 1.0) for answer in answers], depth)
    assert missed.startswith("error of head is 0.")
