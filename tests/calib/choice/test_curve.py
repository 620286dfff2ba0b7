"""The measured curve, its numbers for machines and its picture by the benchmarks."""

import json

import pytest
from int8_curve import draw_curve


def test_curve_is_saved_and_drawn(done, tmp_path):
    report, folder = done
    record = json.loads((folder / "curve.json").read_text())
    assert [point["int8_nodes"] for point in record["measured"]] == [22, 15, 7, 0]
    assert record["measured"][-1]["measured"] == pytest.approx(1, abs=1e-9)
    # Times would make two exports differ: they are in the receipt, and not in a file that it hashes.
    assert not any("ms" in key for point in record["measured"] for key in point)
    assert list(report.curve_ms) == ["22", "15", "7", "0"] and min(report.curve_ms.values()) > 0
    assert len(record["predicted"]) == 23
    draw_curve(record, report.curve_ms, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
