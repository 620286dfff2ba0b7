"""Where the time of a stream goes: percentiles a stage, in memory that does not grow with the hours."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

# Logarithmic bins of 1 % from 1 microsecond to 1000 s: a percentile is off by half a per cent at most.
_SHORTEST_S, _RATIO, _BINS = 1e-6, 1.01, 2084


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """What one frame took [s].

    Attributes:
        capture_s: decoding; for a camera from the end of the grab to the picture.
        wait_s: between the stages, in slots and queues.
        preprocess_s: fitting the frame to the graph's image.
        infer_s: the graph.
        total_s: from the capture stamp to the features; the age of the result.
    """

    capture_s: float
    wait_s: float
    preprocess_s: float
    infer_s: float
    total_s: float


STAGES = tuple(name.name.removesuffix("_s") for name in fields(StageTimes))


@dataclass(frozen=True, kw_only=True)
class LatencyStats:
    """Percentiles of one stage."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    n: int


@dataclass(kw_only=True)
class LatencyHistogram:
    """Times counted in fixed bins."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, duration_s: float) -> None:
        """Count one duration."""
        position = math.log(max(duration_s, _SHORTEST_S) / _SHORTEST_S) / math.log(_RATIO)
        self.counts[min(int(position), _BINS - 1)] += 1

    def percentile_ms(self, percent: float) -> float:
        """The duration that `percent` of all are not above; nan without any."""
        total = int(self.counts.sum())
        if not total:
            return math.nan
        rank = max(1, math.ceil(percent / 100 * total))
        position = int(np.searchsorted(np.cumsum(self.counts), rank))
        return _SHORTEST_S * _RATIO ** (position + 0.5) * 1e3

    def stats(self) -> LatencyStats:
        """The percentiles that tables show."""
        p50, p95, p99 = (self.percentile_ms(percent) for percent in (50, 95, 99))
        return LatencyStats(p50_ms=p50, p95_ms=p95, p99_ms=p99, n=int(self.counts.sum()))


class StageHistograms:
    """One histogram a stage."""

    def __init__(self) -> None:
        self._stages = {name: LatencyHistogram() for name in (*STAGES, "output")}

    def add(self, times: StageTimes) -> None:
        """Count one frame."""
        for name in STAGES:
            self._stages[name].add(getattr(times, f"{name}_s"))

    def add_output(self, duration_s: float) -> None:
        """Count the painting, showing and saving of one picture; it runs beside the stages of the next frame."""
        self._stages["output"].add(duration_s)

    def stats(self) -> dict[str, LatencyStats]:
        """By stage, without those that never ran."""
        figures = {name: histogram.stats() for name, histogram in self._stages.items()}
        return {name: stats for name, stats in figures.items() if stats.n}
