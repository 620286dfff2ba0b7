"""Whether INT8 is worth it."""

import pytest

from brixel_edge.calib.choice.speed import speed_verdict
from brixel_edge.errors import SpecError


def test_speed_verdict_compares_with_the_best_float_engine():
    verdict = speed_verdict(10.0, {"fp32": 25.0, "bf16": 10.5})
    assert not verdict.accepted
    assert verdict.speedup == pytest.approx(1.05)
    assert "INT8 takes 10.0 ms, bf16 takes 10.5 ms: 1.05 times faster" in verdict.message
    assert verdict.message.endswith("use bf16")
    assert speed_verdict(10.0, {"fp32": 11.0}).accepted


def test_speed_verdict_needs_something_to_compare():
    with pytest.raises(SpecError, match="cannot be compared"):
        speed_verdict(10.0, {})
