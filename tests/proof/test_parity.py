"""Parity numbers against values computed by hand, and each bound of each gate."""

import json
from dataclasses import replace

import numpy as np
import pytest

from brixel_edge.errors import BundleError, ParityError
from brixel_edge.proof.answers import AnswerReport
from brixel_edge.proof.parity import (
    GATES,
    ParityReport,
    cell_cosines,
    check_gate,
    compare,
    compare_cells,
    report_of_answers,
    with_answers,
)


def random_map(seed: int, cells: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 8, cells, cells)).astype(np.float32)


def test_equal_maps_are_perfect():
    report = compare([random_map(0)], [random_map(0)])
    assert report.cosine_mean == pytest.approx(1, abs=1e-12)
    assert (report.frobenius, report.max_abs, report.finite) == (0, 0, True)
    for precision in GATES:
        check_gate(report, precision, "equal")


def test_numbers_of_two_cells_by_hand():
    reference = np.array([[[[1.0, 0.0]], [[0.0, 2.0]]]])  # cells (1, 0) and (0, 2)
    candidate = np.array([[[[1.0, 1.0]], [[1.0, 2.0]]]])  # cells (1, 1) and (1, 2)
    report = compare([reference], [candidate])
    assert report.cosine_mean == pytest.approx((1 / 2**0.5 + 2 / 5**0.5) / 2)
    assert report.frobenius == pytest.approx((2 / 5) ** 0.5)
    assert report.max_abs == 1


def test_centred_cosine_shows_what_a_common_offset_hides():
    offset = np.full((1, 8, 1, 1), 100.0)
    report = compare([random_map(0) + offset], [random_map(1) + offset])
    assert report.cosine_mean > 0.999
    assert abs(report.centred_mean) < 0.1


def test_few_bad_cells_fail_the_worst_percent_though_the_mean_passes():
    reference = random_map(0)
    candidate = reference.copy()
    candidate[:, :, 0, :5] = -candidate[:, :, 0, :5]  # 5 of 400 cells
    report = compare([reference], [candidate])
    assert report.cosine_p01 < 0
    with pytest.raises(ParityError, match="worst 1 %"):
        check_gate(report, "int8", "candidate")


@pytest.mark.parametrize("precision", GATES)
def test_each_bound_refuses_alone(precision):
    gate = GATES[precision]
    at_the_bounds = ParityReport(
        cosine_mean=gate.cosine_mean,
        cosine_p01=gate.cosine_p01,
        centred_mean=0.0,
        frobenius=gate.frobenius,
        max_abs=9.0,
        finite=True,
        images=1,
        norm_error=gate.norm,
    )
    check_gate(at_the_bounds, precision, "candidate")
    for bound, step in (("cosine_mean", -1e-6), ("cosine_p01", -1e-6), ("frobenius", 1e-6), ("norm_error", 1e-6)):
        missed = replace(at_the_bounds, **{bound: getattr(at_the_bounds, bound) + step})
        with pytest.raises(ParityError, match="candidate differs from PyTorch"):
            check_gate(missed, precision, "candidate")


def test_a_report_passes_through_json_with_figures_without_and_with_a_head_alone():
    broken = random_map(0)
    broken[0, 0, 0, 0] = np.nan
    answers = AnswerReport(kind="segmentation", agreement=0.998, error=0.01)
    plain = compare([random_map(0)], [random_map(1)])
    for report in (
        plain,
        compare([random_map(0)], [broken]),
        report_of_answers(answers, 3),
        with_answers(plain, answers),
    ):
        read = ParityReport.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False)))
        assert repr(read) == repr(report) and read.has_features == (
            report.cosine_mean == plain.cosine_mean or not report.finite
        )
        assert [read.passes(gate) for gate in GATES.values()] == [report.passes(gate) for gate in GATES.values()]
    with pytest.raises(BundleError, match="cosine_mean is 'high' and not a number"):
        ParityReport.from_json({**plain.to_json(), "cosine_mean": "high"})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_fail_every_gate(value):
    candidate = random_map(0)
    candidate[0, 0, 0, 0] = value
    report = compare([random_map(0)], [candidate])
    for precision in GATES:
        with pytest.raises(ParityError, match="NaN or Inf"):
            check_gate(report, precision, "candidate")


def test_a_scaled_map_has_perfect_cosines_and_fails_by_its_norm():
    report = compare([random_map(0)], [random_map(0) * 1.02])
    assert report.cosine_p01 == pytest.approx(1)
    with pytest.raises(ParityError, match=r"relative error 2\.00e-02"):
        check_gate(report, "fp16", "candidate")
    check_gate(report, "bf16", "candidate")


def test_other_shapes_cannot_be_compared():
    with pytest.raises(ParityError, match="cannot be compared"):
        compare([random_map(0)], [random_map(0, cells=4)])
    with pytest.raises(ParityError, match="cannot be compared"):
        compare([], [])


def test_cells_of_several_images_by_hand():
    a = np.array([[1, 0], [0, 2]], np.float32)
    b = np.array([[0, 1], [0, 2]], np.float32)
    found = compare_cells([a] * 200, [b] * 200)
    assert found.cosine_mean == pytest.approx(0.5)
    assert found.cosine_p01 == pytest.approx(0, abs=1e-9)
    assert found.frobenius == pytest.approx(np.sqrt(2 / 5))
    assert (found.max_abs, found.images) == (1, 200)
    centre = np.array([0.5, 1.0])
    pairs = [(x - centre, y - centre) for x, y in zip(a, b, strict=True)]
    expected = np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs])
    assert found.centred_mean == pytest.approx(expected)


def test_a_cell_without_length_counts_as_zero():
    assert cell_cosines(np.zeros((1, 3, 1, 1)), np.ones((1, 3, 1, 1))) == [0]
