"""Every score by a second method: loops over pixels, written from the definition."""

import math
import statistics

import numpy as np
import pytest

from brixel_edge.evaluation.metrics import (
    DepthMetric,
    NormalsMetric,
    SegmentationMetric,
    angles_deg,
    spread_of,
)
from brixel_edge.evaluation.samples import IGNORED

RNG = np.random.default_rng(0)


def tallied(metric, pairs, order=None):
    total = metric.nothing()
    for index in order if order is not None else range(len(pairs)):
        total = total.plus(metric.tally(index, *pairs[index]))
    return metric.scores(total)


def iou_by_loops(pairs, classes):
    """For each class the pixels that are it in both, over those that are it in either; ignored ones are nowhere."""
    both, either, right, total = [0] * classes, [0] * classes, 0, 0
    for given, true in pairs:
        for y in range(true.shape[0]):
            for x in range(true.shape[1]):
                if true[y, x] == IGNORED:
                    continue
                total += 1
                right += int(given[y, x] == true[y, x])
                for c in range(classes):
                    is_given, is_true = given[y, x] == c, true[y, x] == c
                    both[c] += int(is_given and is_true)
                    either[c] += int(is_given or is_true)
    return [b / e if e else None for b, e in zip(both, either, strict=True)], right / total


def segmentation_pairs():
    pairs = []
    for size in ((7, 9), (5, 4), (8, 8)):
        true = RNG.integers(0, 4, size).astype(np.uint8)  # class 4 occurs nowhere, class 3 never in a prediction
        given = np.where(RNG.random(size) < 0.6, np.minimum(true, 2), RNG.integers(0, 3, size)).astype(np.uint8)
        true[RNG.random(size) < 0.2] = IGNORED
        pairs.append((given, true))
    return pairs


def test_iou_and_accuracy_are_those_of_loops_over_pixels():
    pairs = segmentation_pairs()
    ious, accuracy = iou_by_loops(pairs, 5)
    scores = tallied(SegmentationMetric(classes=tuple("abcde")), pairs)
    assert list(scores.per_class.values()) == pytest.approx(ious)
    assert ious[4] is None and ious[3] == 0
    assert scores.values["miou"] == pytest.approx(statistics.mean(iou for iou in ious if iou is not None))
    assert scores.values["pixel_accuracy"] == pytest.approx(accuracy)


def test_the_authors_count_an_absent_class_as_a_failure():
    pairs = segmentation_pairs()
    ious, _ = iou_by_loops(pairs, 5)
    scores = tallied(SegmentationMetric(classes=tuple("abcde"), is_absent_zero=True), pairs)
    assert scores.values["miou"] == pytest.approx(sum(iou or 0 for iou in ious) / 5)


def test_a_picture_without_labels_changes_nothing():
    metric, pairs = SegmentationMetric(classes=("a", "b")), segmentation_pairs()[:0]
    blank = (np.zeros((2, 2), np.uint8), np.full((2, 2), IGNORED, np.uint8))
    assert math.isnan(tallied(metric, [*pairs, blank]).values["miou"])


def depth_by_loops(given, true, low, high, zeros=0):
    """Metric and aligned errors of one picture; the fit by numpy's own least squares."""
    pairs = [
        (min(max(float(g), low), high), float(t)) for g, t in zip(given.ravel(), true.ravel(), strict=True) if t > 0
    ]
    rows = [(g, 1.0) for g, _ in pairs] + [(0.0, 1.0)] * zeros
    scale, shift = np.linalg.lstsq(np.array(rows), np.array([t for _, t in pairs] + [0.0] * zeros), rcond=None)[0]
    found = {}
    for prefix, values in (
        ("", pairs),
        ("aligned_", [(min(max(scale * g + shift, low), high), t) for g, t in pairs]),
    ):
        found[f"{prefix}rmse_m"] = math.sqrt(sum((g - t) ** 2 for g, t in values) / len(values))
        found[f"{prefix}abs_rel"] = sum(abs(g - t) / t for g, t in values) / len(values)
        found[f"{prefix}delta1"] = sum(max(g / t, t / g) < 1.25 for g, t in values) / len(values)
    return found


def depth_pairs():
    pairs = []
    for size in ((6, 8), (5, 5)):
        true = RNG.uniform(0.5, 6, size).astype(np.float32)
        given = (0.6 * true + 0.8 + RNG.normal(0, 0.2, size)).astype(np.float32)
        given[0, 0], given[1, 1] = -3.0, 40.0
        true[RNG.random(size) < 0.3] = 0
        true[0, 0], true[1, 1] = 1.0, 2.0
        pairs.append((given, true))
    # Aligned, the last pixel would lie beyond what counts.
    pairs.append((np.array([[5, 5, 1, 9]], np.float32), np.array([[9.9, 9.9, 0.2, 9.9]], np.float32)))
    return pairs


@pytest.mark.parametrize("has_faults", [False, True])
def test_depth_errors_are_those_of_loops_and_of_least_squares(has_faults):
    pairs = depth_pairs()
    zeros = [int((true == 0).sum()) if has_faults else 0 for _, true in pairs]
    each = [depth_by_loops(*pair, 0.1, 10.0, count) for pair, count in zip(pairs, zeros, strict=True)]
    scores = tallied(DepthMetric(range_m=(0.1, 10.0), counts_unmeasured=has_faults), pairs)
    assert scores.values == pytest.approx({name: statistics.mean(e[name] for e in each) for name in each[0]}, rel=1e-6)


def test_a_flat_prediction_is_aligned_to_the_mean():
    true = np.array([[1.0, 3.0]], np.float32)
    scores = tallied(DepthMetric(range_m=(0.1, 10.0)), [(np.full((1, 2), 5.0, np.float32), true)])
    assert scores.values["rmse_m"] == pytest.approx(math.sqrt((16 + 4) / 2))
    assert scores.values["aligned_rmse_m"] == pytest.approx(1.0)


def test_depth_without_one_measured_pixel_is_left_out_of_the_mean():
    good = depth_pairs()[0]
    blank = (good[0], np.zeros_like(good[1]))
    assert tallied(DepthMetric(range_m=(0.1, 10.0)), [good, blank]) == tallied(DepthMetric(range_m=(0.1, 10.0)), [good])


def angle_by_loops(a, b):
    dot = sum(float(p) * float(q) for p, q in zip(a, b, strict=True))
    lengths = math.sqrt(sum(float(p) ** 2 for p in a)) * math.sqrt(sum(float(q) ** 2 for q in b))
    return math.degrees(math.acos(max(-1.0, min(1.0, dot / lengths))))


def test_angles_are_those_of_the_arc_cosine_and_shares_those_of_counting():
    pairs, angles = [], []
    for size in ((6, 7), (4, 4)):
        true = RNG.normal(size=(*size, 3))
        true /= np.linalg.norm(true, axis=-1, keepdims=True)
        given = 3 * (true + RNG.normal(0, 0.4, (*size, 3)))
        true[RNG.random(size) < 0.25] = 0
        pairs.append((given.astype(np.float32), true.astype(np.float32)))
        for y in range(size[0]):
            for x in range(size[1]):
                if true[y, x].any():
                    angles.append(angle_by_loops(pairs[-1][0][y, x], pairs[-1][1][y, x]))
    scores = tallied(NormalsMetric(), pairs).values
    assert scores["mean_deg"] == pytest.approx(statistics.mean(angles), abs=1e-4)
    assert scores["median_deg"] == pytest.approx(statistics.median_low(angles), abs=0.011)
    for limit in (11.25, 22.5, 30):
        assert scores[f"under_{limit:g}"] == pytest.approx(sum(a < limit for a in angles) / len(angles))


def test_opposite_and_equal_directions_are_exact():
    up = np.array([[0.0, 0.0, 1.0]])
    assert angles_deg(up, up)[0] == 0 and angles_deg(up, -2 * up)[0] == 180
    scores = tallied(NormalsMetric(), [(-up[None], up[None])])
    assert scores.values["median_deg"] == pytest.approx(180, abs=0.011)


@pytest.mark.parametrize("metric", [SegmentationMetric(classes=tuple("abcde")), DepthMetric(range_m=(0.1, 10.0))])
def test_scores_are_the_same_bits_in_whatever_order_pictures_come(metric):
    pairs = segmentation_pairs() if isinstance(metric, SegmentationMetric) else depth_pairs() * 3
    backwards = list(range(len(pairs)))[::-1]
    assert tallied(metric, pairs) == tallied(metric, pairs, backwards)


def test_the_spread_over_seeds_is_that_of_a_sample():
    values = [0.31, 0.35, 0.42]
    assert spread_of(values) == pytest.approx((statistics.mean(values), statistics.stdev(values)))
    assert spread_of([0.5]) == (0.5, 0.0)
