"""`benchmarks/stream.py --age` runs, and its three ways give what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model

pytestmark = pytest.mark.stream
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "stream.py"


def test_the_ages_of_a_camera_s_frames_are_measured_three_ways(tmp_path):
    pytest.importorskip("av")
    graph, out = tiny_model.save(tmp_path / "tiny.onnx"), tmp_path / "age.json"
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), "--age", str(graph), "--seconds", "2", "--rounds", "1", "--out", str(out)],
        capture_output=True, text=True, timeout=80,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    ages = json.loads(out.read_text())["ages"]
    assert set(ages) == {"network", "decode", "stream"}
    for row in ages.values():
        assert row["frames"] > 5
        assert 0 < row["p50_ms"] <= row["p99_ms"] < 30_000
