"""Streaming statistics and integer scales, against numpy on the tensors themselves."""

import numpy as np
import onnxruntime as ort
import pytest
from calib_vit import PREFIX, ToyVit, toy_frames

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.ranges.observe import PATCH_ROWS, _Gatherer, observe, tensors_of
from brixel_edge.calib.ranges.scales import (
    MIN_SCALE,
    Range,
    bias_shift,
    quantize_weight,
    range_of,
    rounded_rows,
    rounded_weight,
)
from brixel_edge.errors import BuildError

NAMES = ["1.norm2", "0.fc1.gelu", "stem1.relu"]


@pytest.fixture(scope="module")
def vit():
    return ToyVit(depth=2)


@pytest.fixture(scope="module")
def frames():
    return [frame[None] for frame in toy_frames(6)]


@pytest.fixture(scope="module")
def tensors(vit, frames):
    """The tensors themselves, over all frames, as a session gives them that is asked for them."""
    model = vit.graph(taps=("1.norm2", "0.fc1.gelu"))
    model.graph.output.append(model.graph.output[0].__class__(name="stem1.relu"))
    session = ort.InferenceSession(model.SerializeToString())
    values = [session.run(NAMES, {"image": frame}) for frame in frames]
    return {name: np.concatenate([value[i] for value in values]) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def stats(vit, frames):
    graph = Graph(vit.graph())
    return observe(graph, tensors_of(graph, find_layers(graph)), frames, seed=0, threads=1)


@pytest.mark.parametrize("name", NAMES)
def test_ranges_equal_those_of_the_tensors(stats, tensors, name):
    seen = stats[name]
    others = (0, 2, 3) if name == "stem1.relu" else (0, 1)
    for half in (0, 1):
        assert np.allclose(seen.low[half], tensors[name][half::2].min(others), atol=1e-5)
        assert np.allclose(seen.high[half], tensors[name][half::2].max(others), atol=1e-5)
    assert np.allclose(seen.amax(), np.abs(tensors[name]).max(others), atol=1e-5)
    assert np.allclose(seen.amax(1), np.abs(tensors[name][1::2]).max(others), atol=1e-5)


def test_sampled_rows_are_rows_of_their_half(stats, tensors):
    rows = tensors["1.norm2"]
    for half in (0, 1):
        pool = rows[half::2].reshape(-1, rows.shape[-1])
        sampled = stats["1.norm2"].samples[half]
        assert len(sampled) == len(pool)  # 54 rows an image, fewer than are kept
        assert np.allclose(np.sort(sampled[:, 0]), np.sort(pool[:, 0]), atol=1e-5)


def test_reservoir_is_bounded_and_seeded(vit, frames):
    graph = Graph(vit.graph())
    tensors = tensors_of(graph, find_layers(graph))
    first, second, other = (observe(graph, tensors, frames, seed=seed, threads=1, max_rows=20) for seed in (0, 0, 1))
    rows = [found["1.norm2"].samples[0] for found in (first, second, other)]
    assert rows[0].shape == (20, 128)
    assert (rows[0] == rows[1]).all() and (rows[0] != rows[2]).any()


def test_sampled_rows_of_a_wide_tensor_hold_the_prefix(vit):
    """Of more rows than are sampled, the prefix is always taken."""
    graph = Graph(ToyVit(depth=1, size=224).graph())
    tensors = tensors_of(graph, find_layers(graph))
    seen = observe(graph, tensors, [frame[None] for frame in toy_frames(2, 224)], seed=0, threads=1)
    assert all(len(half) == PREFIX + PATCH_ROWS for half in seen["0.norm1"].samples)


def test_histogram_percentile_is_that_of_numpy(stats, tensors):
    values = np.abs(tensors["1.norm2"])
    for share in (0.5, 0.99, 0.999):
        assert stats["1.norm2"].percentile(share) == pytest.approx(np.quantile(values, share), rel=0.01)


def test_histogram_keeps_counts_while_its_range_grows():
    gatherer = _Gatherer(tensors_of(graph := Graph(ToyVit(depth=1).graph()), find_layers(graph))[0], 8)
    gatherer._count(np.array([0.5, 1.0], np.float32))
    gatherer._count(np.array([7.9, 0.1], np.float32))
    assert gatherer.top == 8.0
    assert gatherer.histogram.sum() == 4
    assert gatherer.histogram[: 4096 // 8 + 1].sum() == 3


def test_nan_is_refused_by_name(vit, frames):
    broken = ToyVit(depth=2)
    broken.weights["1.norm2.g"][3] = np.nan
    graph = Graph(broken.graph())
    with pytest.raises(BuildError, match="NaN or Inf on calibration frame 0"):
        observe(graph, tensors_of(graph, find_layers(graph)), frames, seed=0, threads=1)


def test_one_frame_is_not_enough(vit, frames):
    graph = Graph(vit.graph())
    with pytest.raises(BuildError, match="at least two frames"):
        observe(graph, tensors_of(graph, find_layers(graph)), frames[:1], seed=0, threads=1)


def test_observed_graph_is_left_alone(vit, frames):
    graph = Graph(vit.graph())
    before = graph.serialized()
    observe(graph, tensors_of(graph, find_layers(graph)), frames[:2], seed=0, threads=1)
    assert graph.serialized() == before


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
