"""Smoothing: the planted outliers go away, the function stays, and clean models are not hurt."""

import dataclasses

import numpy as np
import pytest
from calib_vit import ToyVit, outlier_vit, toy_frames

from brixel_edge.calib.engines import OrtEngine
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.lowering.qdq import qdq_graph
from brixel_edge.calib.ranges import smooth as smoothing
from brixel_edge.calib.ranges.calibration import calibrate
from brixel_edge.calib.ranges.groups import find_groups
from brixel_edge.calib.ranges.observe import observe, tensors_of
from brixel_edge.calib.ranges.scales import Range
from brixel_edge.calib.ranges.smooth import (
    Smoothing,
    apply_smoothing,
    require_same_function,
    smoothing_scale,
)
from brixel_edge.errors import BuildError
from brixel_edge.proof.parity import cell_cosines

FRAMES = [frame[None] for frame in toy_frames(20)]
CALIBRATION, EVALUATION = FRAMES[:14], FRAMES[14:]
HASHES = ["frame"] * len(CALIBRATION)


def outputs_of(graph):
    engine = OrtEngine(graph.serialized(), threads=1)
    return [engine.run(frame) for frame in EVALUATION]


def int8_cosine(vit, output="dense", clip=None, **options):
    """Mean cosine of the all-integer graph of a model; `clip` replaces min-max by a percentile."""
    graph = Graph(vit.graph())
    found = calibrate(graph, "sha", CALIBRATION, HASHES, seed=0, threads=1, **options)
    if clip is not None:
        found = clipped(graph, found, clip)
    integers = found.integer_layers(layer for layer in find_layers(graph) if not layer.excluded)
    lowered = qdq_graph(found.smoothed(graph), integers)
    pairs = zip(outputs_of(graph), outputs_of(lowered), strict=True)
    return np.concatenate([cell_cosines(a[output], b[output]) for a, b in pairs]).mean()


def clipped(graph, calibration, share):
    """The calibration with symmetric ranges cut at a percentile, as common tools offer it."""
    stats = observe(graph, tensors_of(graph, find_layers(graph)), CALIBRATION, seed=0, threads=1)
    ranges = dict(calibration.ranges)
    for name, seen in stats.items():
        if len(seen.samples[0]):
            top = float(np.quantile(np.abs(np.concatenate(seen.samples)), share))
            ranges[name] = Range(low=-top, high=top)
    return dataclasses.replace(calibration, ranges=ranges, shifts={})


@pytest.fixture(scope="module")
def outliers():
    return outlier_vit()


def test_planted_outliers_leave_the_function_as_it_was():
    """T1: the LayerNorm and V injectors are exact rescalings."""
    clean, planted = ToyVit(), ToyVit().plant_layer_norm().plant_values()
    for a, b in zip(outputs_of(Graph(clean.graph())), outputs_of(Graph(planted.graph())), strict=True):
        assert all(np.allclose(a[name], b[name], atol=2e-5) for name in a)


def test_massive_neuron_fires_on_prefix_tokens(outliers):
    """T1: about 300 there, nothing on nearly all patches."""
    graph = Graph(outliers.graph(taps=("1.fc1.gelu",)))
    hidden = np.concatenate([output["1.fc1.gelu"] for output in outputs_of(graph)])[:, :, 0]
    assert hidden[:, :5].min() > 200
    assert (np.abs(hidden[:, 5:]) > 1).mean() < 0.02


def test_planted_outliers_fit_into_half_precision(outliers):
    """T1: what INT8 loses on them is not a matter of the range of float16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = outliers.graph()
    half = OrtEngine(convert_float_to_float16(model, keep_io_types=True).SerializeToString(), threads=1)
    for frame, expected in zip(EVALUATION, outputs_of(Graph(outliers.graph())), strict=True):
        found = half.run(frame)
        assert cell_cosines(expected["dense"], found["dense"]).mean() > 0.9999


@pytest.mark.slow
def test_recipe_on_a_wider_and_deeper_model():
    """T2: 192 wide, 6 blocks."""
    vit = outlier_vit(dim=192, depth=6, heads=6)
    assert int8_cosine(vit, alphas=()) < 0.90
    assert int8_cosine(vit, alphas=(), clip=0.999) < 0.97
    assert int8_cosine(vit) > 0.998


def test_recipe_where_plain_ranges_fail(outliers):
    """T2: naive min-max falls under 0.9, ours stays above 0.995; on the trunk and behind the adapter."""
    assert int8_cosine(outliers, alphas=()) < 0.90
    assert int8_cosine(outliers, output="features", alphas=()) < 0.92
    assert int8_cosine(outliers, alphas=(), clip=0.999) < 0.97
    assert int8_cosine(outliers) > 0.995
    assert int8_cosine(outliers, output="features") > 0.995


def test_clipping_does_not_cure_layer_norm_outliers():
    """T3: a percentile is a partial cure at best."""
    vit = ToyVit().plant_layer_norm()
    naive, clip, ours = int8_cosine(vit, alphas=()), int8_cosine(vit, alphas=(), clip=0.999), int8_cosine(vit)
    assert naive < 0.95
    assert clip < 0.98
    assert ours > 0.999


def test_each_injector_alone():
    """T3."""
    massive = ToyVit().plant_massive(toy_frames(16, seed=99))
    assert int8_cosine(massive, alphas=()) < 0.995 < int8_cosine(massive)
    values = ToyVit().plant_values()
    assert int8_cosine(values, alphas=()) < 0.999 < int8_cosine(values)


def test_clean_model_is_not_hurt_and_cross_validation_is_why(monkeypatch):
    """T4: with smoothing at least as good as without; alpha chosen on the proposing images is worse than none."""
    naive, ours = int8_cosine(ToyVit(), alphas=()), int8_cosine(ToyVit())
    monkeypatch.setattr(smoothing, "_HALVES", ((0, 0), (1, 1)))
    monkeypatch.setattr(smoothing, "MIN_GAIN_DB", 0.0)
    trusting = int8_cosine(ToyVit())
    assert ours >= naive - 1e-5
    assert trusting < naive - 1e-5


def test_gemm_behind_a_reshape_is_smoothed_alike():
    """The form in which exporters write a linear with a bias."""
    flat = outlier_vit(flat=True)
    graph = Graph(flat.graph())
    kinds = [group.kind for group in find_groups(graph, find_layers(graph))]
    assert (kinds.count("layer norm"), kinds.count("values"), kinds.count("mul")) == (9, 4, 4)
    assert int8_cosine(flat) > 0.995


def test_smoothed_graph_computes_the_same(outliers):
    graph = Graph(outliers.graph())
    found = calibrate(graph, "sha", CALIBRATION, HASHES, seed=0, threads=1)
    assert all(entry.alpha is not None and entry.gain_db >= 1 for entry in found.smoothing if entry.group.kind != "mul")
    for a, b in zip(outputs_of(graph), outputs_of(found.smoothed(graph)), strict=True):
        require_same_function(a, b)


def test_wrong_fold_is_noticed(outliers):
    graph = Graph(outliers.graph())
    group = next(group for group in find_groups(graph, find_layers(graph)) if group.kind == "values")
    scale = np.linspace(0.5, 2, 128).astype(np.float32)
    wrong = dataclasses.replace(group, columns=group.columns[::-1].copy())
    smoothed = apply_smoothing(graph, [Smoothing(group=wrong, alpha=0.5, gain_db=9.0, scale=scale)])
    with pytest.raises(BuildError, match="smoothing changed output"):
        require_same_function(outputs_of(graph)[0], outputs_of(smoothed)[0])


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", ["layer norm", "values", "mul"])
def test_every_kind_of_fold_is_exact(kind, flat):
    graph = Graph(ToyVit(depth=2, flat=flat).graph())
    groups = [group for group in find_groups(graph, find_layers(graph)) if group.kind == kind]
    rng = np.random.default_rng(0)
    moves = [
        Smoothing(
            group=group,
            alpha=0.5,
            gain_db=1.0,
            scale=np.exp(rng.uniform(-2, 2, graph.shapes[group.x][-1])).astype(np.float32),
        )
        for group in groups
    ]
    smoothed = apply_smoothing(graph, moves)
    assert smoothed.serialized() != graph.serialized()
    require_same_function(outputs_of(graph)[0], outputs_of(smoothed)[0])


def test_smoothing_scale_by_hand():
    """Square roots of amax over reach, then geometric mean 1: (4, 1, 1/4) up to the mean."""
    amax, weight = np.array([16, 1, 1 / 16], np.float32), np.array([[1, -1], [0.5, 1], [0, 1]], np.float32)
    assert np.allclose(smoothing_scale(amax, weight, 0.5), [4, 1, 0.25])


def test_smoothing_scale_of_silent_channels_is_one():
    amax, weight = np.array([9, 0, 4], np.float32), np.array([[1], [1], [0]], np.float32)
    assert np.allclose(smoothing_scale(amax, weight, 0.5), [1, 1, 1])
