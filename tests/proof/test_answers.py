"""The gate of a head's answers, by hand."""

import numpy as np
import pytest

from brixel_edge.errors import ParityError
from brixel_edge.proof.answers import compare_answers
from brixel_edge.proof.parity import GATES, check_gate, compare, report_of_answers, with_answers
from brixel_edge.proof.proof import load_proof, proof_from_references, save_proof


def logits(cells):
    """(1, 2, 1, n): the second class wins where a cell is above zero."""
    values = np.asarray(cells, float)
    return np.stack([-values, values])[None, :, None]


def test_agreement_counts_cells_that_keep_their_class():
    reference = logits([1, 1, -1, -1, 1, 1, -1, -1, 1, -1])
    candidate = reference.copy()
    candidate[..., 0] *= -1
    report = compare_answers("segmentation", [reference], [candidate])
    assert report.agreement == 0.9
    # One cell of ten off by twice itself; every cell is 1 from its channel's mean, which is 0.
    assert report.error == pytest.approx(np.sqrt(4 / 10))
    assert "90.00% of the cells keep their class" in report.shortfalls(GATES["int8"].answers)[0]


def test_logits_of_another_scale_have_the_same_classes_and_fail():
    reference = logits(np.linspace(-1, 1, 50))
    report = compare_answers("segmentation", [reference], [2 * reference])
    assert report.agreement == 1 and report.error == pytest.approx(1)
    assert not report_of_answers(report, 1).passes(GATES["int8"])


@pytest.mark.parametrize(("error", "precisions"), [(0.03, ["int8"]), (0.01, ["bf16", "int8"]), (0.06, [])])
def test_depth_is_judged_by_parts_of_it(error, precisions):
    reference = np.log(np.array([0.5, 1, 2, 8])).reshape(1, 1, 2, 2)
    report = compare_answers("depth", [reference], [reference + np.log1p(error)])
    assert report.agreement is None and report.error == pytest.approx(error)
    assert [name for name in GATES if report_of_answers(report, 1).passes(GATES[name])] == precisions


def test_a_common_offset_of_components_is_an_error():
    reference = np.random.default_rng(0).normal(size=(1, 3, 8, 8)) + 100
    report = compare_answers("pca", [reference], [reference + 1])
    assert 0.8 < report.error < 1.2  # in parts of a spread of 1, not of the length of 170


def test_features_and_answers_must_both_pass():
    maps = [np.random.default_rng(0).normal(size=(1, 8, 4, 4))]
    right = compare_answers("segmentation", [logits([1, -1])], [logits([1, -1])])
    wrong = compare_answers("segmentation", [logits([1, -1])], [logits([-1, 1])])
    good, bad = compare(maps, maps), compare(maps, [-maps[0]])
    assert with_answers(good, right).passes(GATES["fp32"])
    assert not with_answers(good, wrong).passes(GATES["fp32"]) and not with_answers(bad, right).passes(GATES["fp32"])
    with pytest.raises(ParityError, match=r"g answers otherwise than PyTorch, on 1 images: 0\.00% of the cells"):
        check_gate(with_answers(good, wrong), "fp32", "g")


def test_answers_that_are_not_finite_fail():
    report = compare_answers("depth", [np.zeros((1, 1, 2, 2))], [np.full((1, 1, 2, 2), np.nan)])
    assert not report_of_answers(report, 1).passes(GATES["int8"])
    assert report_of_answers(report, 1).to_json()["answers"]["error"] is None


@pytest.mark.parametrize("has_features", [True, False])
def test_a_proof_carries_answers(tmp_path, has_features):
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(1, 4, 3, 5)).astype(np.float32)] if has_features else None
    answers = [rng.normal(size=(1, 2, 3, 5)).astype(np.float32)]
    image = np.zeros((1, 12, 20, 3), np.uint8)
    save_proof(
        proof_from_references(["a"], [image], features, answers=answers, kind="segmentation"), tmp_path / "p.npz"
    )
    proof = load_proof(tmp_path / "p.npz")
    outputs = {"head": answers[0]} | ({"features": features[0]} if features else {})
    report = proof.first(1).compare([outputs])
    assert report.answers is not None and report.answers.agreement == 1 and report.has_features == has_features
    assert report.passes(GATES["fp32"])
    assert not proof.compare([outputs | {"head": -answers[0]}]).passes(GATES["int8"])
