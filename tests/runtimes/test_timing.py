"""Percentiles from bins against those from the values; the lines and tables that show them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from brixel_edge.runtimes.stream.report import RunReport, SecondLine
from brixel_edge.runtimes.stream.timing import LatencyHistogram, StageHistograms, StageTimes


def times(infer_s=0.02, total_s=0.03):
    return StageTimes(capture_s=0.001, wait_s=0.004, preprocess_s=0.005, infer_s=infer_s, total_s=total_s)


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_percentiles_are_within_a_per_cent(percent):
    values_s = np.random.default_rng(0).lognormal(-3, 1, 5001)
    histogram = LatencyHistogram()
    for value in values_s:
        histogram.add(value)
    exact_ms = np.percentile(values_s, percent, method="inverted_cdf") * 1e3
    assert histogram.percentile_ms(percent) == pytest.approx(exact_ms, rel=0.01)


def test_extremes_are_counted_too():
    histogram = LatencyHistogram()
    for value in (0.0, 1e-9, 1e6):
        histogram.add(value)
    assert histogram.stats().n == 3
    assert histogram.percentile_ms(50) < 0.01
    assert histogram.percentile_ms(99) > 9e5


def test_without_values_there_is_no_percentile():
    assert math.isnan(LatencyHistogram().percentile_ms(50))
    assert StageHistograms().stats() == {}


def test_stages_are_in_the_order_of_a_frame_s_way():
    stages = StageHistograms()
    stages.add(times())
    assert list(stages.stats()) == ["capture", "wait", "preprocess", "infer", "total"]
    stages.add_output(0.01)
    assert list(stages.stats())[-1] == "output"
    assert stages.stats()["infer"].p50_ms == pytest.approx(20, rel=0.01)


def report(**changes):
    stages = StageHistograms()
    stages.add(times())
    settings = {
        "model": "m.brixel", "backend": "ort", "engine": "graph.int8.ort.onnx", "precision": "int8",
        "proof": "proven here", "passed_over": (), "source": "drive.mp4", "notice": None, "frames_in": 30,
        "processed": 20, "dropped": 10, "waiting": 0, "skipped": 0, "gaps": 0, "repeated": 0, "max_age_ms": None,
        "within_max_age": None, "health": {"state": "ended"}, "elapsed_s": 4.0, "stages": stages.stats(),
        "peak_memory_bytes": 300 << 20, "memory_plan": None, "saved": None,
    }  # fmt: skip
    return RunReport(**{**settings, **changes})


def test_the_table_has_the_figures():
    text = report(notice="untrained", gaps=2, saved="out.mp4 (20 frames)").table()
    rows = dict(line.split(maxsplit=1) for line in text.splitlines() if line[0] != " ")
    assert rows["model"] == "m.brixel"
    assert rows["engine"] == "graph.int8.ort.onnx (int8) on ort, proven here"
    assert rows["fps"] == "5.0"
    assert rows["dropped"] == "10"
    assert rows["gaps"] == "2"
    assert rows["peak"] == "memory  300 MiB"
    assert rows["saved"] == "out.mp4 (20 frames)"
    assert "untrained" in text
    assert [float(value) for value in rows["infer"].split()] == pytest.approx([20] * 3, rel=0.01)
    assert "skipped" not in text


def test_json_is_plain():
    record = json.loads(json.dumps(report().to_json()))
    assert record["fps"] == 5
    assert record["stages"]["total"]["n"] == 1
    assert record["peak_memory_bytes"] == 300 << 20


def test_a_run_without_frames_still_has_a_table():
    assert report(backend=None, processed=0, elapsed_s=0.0, stages={}).fps == 0
    assert "not opened" in report(engine=None, processed=0, elapsed_s=0.0, stages={}).table()


def test_the_line_of_a_second_starts_anew():
    second = SecondLine()
    second.add(times(infer_s=0.02, total_s=0.05))
    second.add(times(infer_s=0.04, total_s=0.07))
    line = second.text(elapsed_s=3.0, span_s=2.0, processed=12, dropped=3)
    assert "12 frames" in line
    assert "1.0 fps" in line
    assert "infer   30.0 ms" in line
    assert "age   60.0 ms" in line
    assert "dropped 3" in line
    assert "0.0 fps" in second.text(elapsed_s=4.0, span_s=1.0, processed=12, dropped=3)


def test_each_column_is_its_own_percentile():
    """1000 durations of 1 to 1000 ms: the 950th is not the 900th."""
    histogram = LatencyHistogram()
    for duration_ms in range(1, 1001):
        histogram.add(1e-3 * duration_ms)
    stats = histogram.stats()
    assert (stats.p50_ms, stats.p95_ms, stats.p99_ms) == pytest.approx((500, 950, 990), rel=0.01)


def test_the_share_within_the_bound_is_shown():
    text = report(max_age_ms=200.0, within_max_age=0.975, waiting=1, repeated=3).table()
    assert "97.5 % of results within 200 ms" in text
    assert "waiting      1" in text
    assert "repeated     3" in text
