"""Scores. Each picture gives a tally; tallies add up over pictures and processes, then become scores.

Counts are whole numbers, and what is a mean of pictures is added in the order of the pictures: so the scores do not
depend on how many processes shared the work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brixel_edge.evaluation.samples import IGNORED, LabelledData

# Steps of the histogram that medians come from.
ANGLE_STEP_DEG = 0.01
ANGLE_LIMITS_DEG = (11.25, 22.5, 30.0)
RATIO_LIMIT = 1.25
_STEPS = round(180 / ANGLE_STEP_DEG)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one picture, or several, contributed.

    Attributes:
        counts: whole numbers that add up.
        pictures: for each picture its number in the data set and its values.
    """

    counts: NDArray[np.int64]
    pictures: tuple[tuple[int, dict[str, float]], ...] = ()

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(counts=self.counts + other.counts, pictures=self.pictures + other.pictures)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one probe.

    Attributes:
        values: by name.
        per_class: of a segmentation, IoU of each class; None for those that occur nowhere.
    """

    values: dict[str, float]
    per_class: dict[str, float | None] = field(default_factory=dict)


class Metric(Protocol):
    """How predictions are scored."""

    @property
    def main(self) -> str:
        """Name of the score that plots show."""
        ...

    @property
    def is_higher_better(self) -> bool:
        """Of that score."""
        ...

    def nothing(self) -> Tally:
        """The tally of no picture."""
        ...

    def tally(self, index: int, prediction: NDArray, label: NDArray) -> Tally:
        """What a picture contributes.

        Args:
            index: of the picture in its data set.
            prediction: at the label's size.
            label: as `Sample.read_label` gives it.
        """
        ...

    def scores(self, tally: Tally) -> Scores:
        """Scores of all pictures that were tallied."""
        ...


def mean_of_pictures(tally: Tally) -> dict[str, float]:
    """Mean of each value over the pictures that have it, whatever order they came in."""
    values: dict[str, list[float]] = {}
    for _, record in sorted(tally.pictures, key=lambda picture: picture[0]):
        for name, value in record.items():
            values.setdefault(name, []).append(value)
    return {name: math.fsum(entries) / len(entries) for name, entries in values.items()}


@dataclass(frozen=True, kw_only=True)
class SegmentationMetric:
    """Mean IoU and pixel accuracy, over all pixels of all pictures.

    Attributes:
        classes: their names.
        is_absent_zero: count classes that occur in no label and no prediction as IoU 0, which the authors' scripts do;
            otherwise they are left out of the mean.
    """

    classes: tuple[str, ...]
    is_absent_zero: bool = False
    main: str = "miou"
    is_higher_better: bool = True

    def nothing(self) -> Tally:
        """As `Metric`."""
        return Tally(counts=np.zeros((len(self.classes),) * 2, np.int64))

    def tally(self, index: int, prediction: NDArray, label: NDArray) -> Tally:
        """As `Metric`; a confusion matrix with a row for each true class."""
        is_labelled = label != IGNORED
        count = len(self.classes)
        cells = label[is_labelled].astype(np.int64) * count + prediction[is_labelled]
        return Tally(counts=np.bincount(cells, minlength=count * count).reshape(count, count))

    def scores(self, tally: Tally) -> Scores:
        """As `Metric`."""
        confusion = tally.counts.astype(np.float64)
        right = np.diag(confusion)
        union = confusion.sum(0) + confusion.sum(1) - right
        occurs = union > 0
        ious = np.divide(right, union, out=np.zeros_like(right), where=occurs)
        counted = np.ones_like(occurs) if self.is_absent_zero else occurs
        total = confusion.sum()
        return Scores(
            values={
                "miou": float(ious[counted].mean()) if counted.any() else math.nan,
                "pixel_accuracy": float(right.sum() / total) if total else math.nan,
            },
            per_class={
                name: float(iou) if there else None for name, iou, there in zip(self.classes, ious, occurs, strict=True)
            },
        )


@dataclass(frozen=True, kw_only=True)
class DepthMetric:
    """RMSE, AbsRel and delta1, of depth as predicted and after each picture's own best scale and shift.

    Means over pictures of each picture's value.

    Attributes:
        range_m: predictions are clipped to it.
        counts_unmeasured: the authors' fault: pixels without depth are points (0, 0) in the fit of scale and shift.
    """

    range_m: tuple[float, float]
    counts_unmeasured: bool = False
    main: str = "rmse_m"
    is_higher_better: bool = False

    def nothing(self) -> Tally:
        """As `Metric`."""
        return Tally(counts=np.zeros(1, np.int64))

    def tally(self, index: int, prediction: NDArray, label: NDArray) -> Tally:
        """As `Metric`."""
        is_measured = label > 0
        true = label[is_measured].astype(np.float64)
        if not true.size:
            return self.nothing()
        given = np.clip(prediction[is_measured].astype(np.float64), *self.range_m)
        unmeasured = label.size - true.size if self.counts_unmeasured else 0
        scale, shift = _scale_and_shift(given, true, unmeasured)
        aligned = np.clip(scale * given + shift, *self.range_m)
        values = _depth_errors(given, true) | {
            f"aligned_{name}": value for name, value in _depth_errors(aligned, true).items()
        }
        return Tally(counts=np.array([true.size]), pictures=((index, values),))

    def scores(self, tally: Tally) -> Scores:
        """As `Metric`."""
        return Scores(values=mean_of_pictures(tally) or {self.main: math.nan})


def _scale_and_shift(given: NDArray[np.float64], true: NDArray[np.float64], zeros: int) -> tuple[float, float]:
    """Least squares of scale * given + shift = true, with `zeros` more points at (0, 0)."""
    count = given.size + zeros
    mean_given, mean_true = given.sum() / count, true.sum() / count
    variance = np.dot(given, given) / count - mean_given**2
    covariance = np.dot(given, true) / count - mean_given * mean_true
    scale = covariance / variance if variance > 1e-12 * max(mean_given**2, 1e-12) else 0.0
    return float(scale), float(mean_true - scale * mean_given)


def _depth_errors(given: NDArray[np.float64], true: NDArray[np.float64]) -> dict[str, float]:
    error = given - true
    ratio = np.maximum(given / true, true / given)
    return {
        "rmse_m": float(np.sqrt(np.mean(error**2))),
        "abs_rel": float(np.mean(np.abs(error) / true)),
        "delta1": float(np.mean(ratio < RATIO_LIMIT)),
    }


@dataclass(frozen=True, kw_only=True)
class NormalsMetric:
    """Angular errors over all pixels of all pictures: mean, median, and shares under three limits."""

    main: str = "mean_deg"
    is_higher_better: bool = False

    def nothing(self) -> Tally:
        """As `Metric`."""
        return Tally(counts=np.zeros(_STEPS + 1 + len(ANGLE_LIMITS_DEG), np.int64))

    def tally(self, index: int, prediction: NDArray, label: NDArray) -> Tally:
        """As `Metric`; a histogram, and behind it the counts under the limits."""
        is_known = np.einsum("hwi,hwi->hw", label, label) > 0
        angles = angles_deg(prediction[is_known], label[is_known])
        histogram = np.bincount((angles / ANGLE_STEP_DEG).astype(np.int64), minlength=_STEPS + 1)
        under = [int((angles < limit).sum()) for limit in ANGLE_LIMITS_DEG]
        pictures = ((index, {"sum": math.fsum(angles)}),) if angles.size else ()
        return Tally(counts=np.concatenate((histogram, under)), pictures=pictures)

    def scores(self, tally: Tally) -> Scores:
        """As `Metric`."""
        histogram, under = tally.counts[: _STEPS + 1], tally.counts[_STEPS + 1 :]
        total = int(histogram.sum())
        if not total:
            return Scores(values={self.main: math.nan})
        sums = [record["sum"] for _, record in sorted(tally.pictures, key=lambda picture: picture[0])]
        middle = int(np.searchsorted(np.cumsum(histogram), (total + 1) // 2))
        shares = {f"under_{limit:g}": int(count) / total for limit, count in zip(ANGLE_LIMITS_DEG, under, strict=True)}
        return Scores(
            values={"mean_deg": math.fsum(sums) / total, "median_deg": (middle + 0.5) * ANGLE_STEP_DEG, **shares}
        )


def angles_deg(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Angles between vectors (..., 3) of any length, by atan2, which is exact near 0 and 180 degrees too."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(sine, np.einsum("...i,...i->...", a, b)))


def metric_of(data: LabelledData, *, has_authors_faults: bool = False) -> Metric:
    """The metric of a data set's kind of label.

    Args:
        data: what is scored.
        has_authors_faults: count as the authors' scripts do.
    """
    if data.kind == "segmentation":
        return SegmentationMetric(classes=data.classes, is_absent_zero=has_authors_faults)
    if data.kind == "depth":
        return DepthMetric(range_m=data.depth_range_m, counts_unmeasured=has_authors_faults)
    return NormalsMetric()


def spread_of(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample; 0 for one value) over seeds."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
