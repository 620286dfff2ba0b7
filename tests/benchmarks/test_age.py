"""The figures of the ages that `benchmarks/stream.py --age` prints; the benchmark itself runs in tests/streaming."""

from __future__ import annotations

import pytest
from age import figures


def test_percentiles_are_those_of_the_middle_turn():
    turn = [number / 1000 for number in range(101)]  # 0 to 100 ms: percentile p is p ms
    rows = figures({"network": [[2 * age for age in turn], turn, [9 * age for age in turn]], "decode": [[0.05], []]})
    assert rows["network"] == {"p50_ms": pytest.approx(100), "p99_ms": pytest.approx(198), "frames": 303}
    assert rows["decode"] == {"p50_ms": pytest.approx(50), "p99_ms": pytest.approx(50), "frames": 1}


def test_a_way_without_frames_is_said():
    with pytest.raises(SystemExit, match="no frame came by stream"):
        figures({"stream": [[], []]})
