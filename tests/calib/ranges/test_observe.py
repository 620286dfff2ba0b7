"""Streaming statistics, against numpy on the tensors themselves."""

import numpy as np
import onnxruntime as ort
import pytest
from calib_vit import PREFIX, ToyVit, toy_frames

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.ranges import observe as observing
from brixel_edge.calib.ranges.observe import PATCH_ROWS, observe, tensors_of
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


def test_reservoir_is_bounded_and_seeded(vit, frames, monkeypatch):
    monkeypatch.setattr(observing, "MAX_ROWS", 20)
    graph = Graph(vit.graph())
    tensors = tensors_of(graph, find_layers(graph))
    first, second, other = (observe(graph, tensors, frames, seed=seed, threads=1) for seed in (0, 0, 1))
    rows = [found["1.norm2"].samples[0] for found in (first, second, other)]
    assert rows[0].shape == (20, 128)
    assert (rows[0] == rows[1]).all() and (rows[0] != rows[2]).any()


def test_sampled_rows_of_a_wide_tensor_hold_the_prefix(vit):
    """Of more rows than are sampled, the prefix is always taken."""
    graph = Graph(ToyVit(depth=1, size=224).graph())
    tensors = tensors_of(graph, find_layers(graph))
    seen = observe(graph, tensors, [frame[None] for frame in toy_frames(2, 224)], seed=0, threads=1)
    assert all(len(half) == PREFIX + PATCH_ROWS for half in seen["0.norm1"].samples)


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
