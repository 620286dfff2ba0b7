"""Integer scales, by hand."""

import numpy as np
import pytest

from brixel_edge.calib.ranges.scales import (
    MIN_SCALE,
    Range,
    bias_shift,
    quantize_weight,
    range_of,
    rounded_rows,
    rounded_weight,
)


def test_symmetric_and_unsigned_scales_by_hand():
    both = Range(low=-2.54, high=1.0)
    assert both.scale == pytest.approx(0.02)
    assert both.unsigned == (pytest.approx(3.54 / 255), 183)
    assert Range(low=0.1, high=5.1).unsigned == (pytest.approx(0.02), 0)
    assert Range(low=-1e-9, high=1e-9).scale == MIN_SCALE


def test_range_after_smoothing_is_that_of_the_divided_channels():
    low, high = np.array([[-1, -8], [-2, -4]], np.float32), np.array([[1, 2], [3, 40]], np.float32)
    assert range_of(low, high, np.array([1, 20], np.float32)) == Range(low=-2, high=3)


def test_weight_integers_by_hand():
    weight = np.array([[1.27, -0.5], [0.1, 0.25]], np.float32)
    integers, scale = quantize_weight(weight, 1)
    assert np.allclose(scale, [0.01, 0.5 / 127])
    assert (integers == [[127, -127], [10, 64]]).all()
    assert np.allclose(rounded_weight(weight, 1)[:, 0], [1.27, 0.10])
    assert (quantize_weight(weight.T.copy(), 0)[0] == integers.T).all()


def test_weight_of_a_dead_channel_has_a_scale_that_float16_holds():
    integers, scale = quantize_weight(np.zeros((4, 2), np.float32), 1)
    assert (scale == MIN_SCALE).all() and not integers.any()
    assert (np.float16(scale) == scale).all()


def test_rows_saturate():
    assert (rounded_rows(np.array([[1.0, 200.0, -200.0]], np.float32), 1.0) == [[1, 127, -128]]).all()


def test_bias_shift_restores_the_mean():
    rng = np.random.default_rng(0)
    rows, weight = (
        rng.standard_normal((400, 32)).astype(np.float32) + 1,
        rng.standard_normal((32, 8)).astype(np.float32),
    )
    shift = bias_shift(rows, weight, 0.2)
    rounded = rounded_rows(rows, 0.2) @ rounded_weight(weight, 1)
    assert np.abs((rows @ weight - rounded).mean(0)).max() > 1e-3
    assert np.allclose((rounded + shift).mean(0), (rows @ weight).mean(0), atol=1e-4)
