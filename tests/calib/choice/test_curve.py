"""The measured curve, its numbers for machines and its picture by the benchmarks."""

import json

import pytest
from int8_curve import draw_curve


def test_curve_is_saved_and_drawn(done, tmp_path):
    _, folder = done
    record = json.loads((folder / "curve.json").read_text())
    assert [point["int8_nodes"] for point in record["measured"]] == [22, 15, 7, 0]
    assert record["measured"][-1]["measured"] == pytest.approx(1, abs=1e-9)
    assert all(point["latency_ms"] > 0 for point in record["measured"])
    assert len(record["predicted"]) == 23
    draw_curve(record, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
