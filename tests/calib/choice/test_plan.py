"""The plan, and whether the effects of single nodes add up to what is measured."""

import pytest
from calib_vit import TOY_FRAMES, losses, stages

from brixel_edge.calib.choice.plan import make_plan
from brixel_edge.calib.choice.sensitivity import Effect
from brixel_edge.calib.lowering.qdq import qdq_graph
from brixel_edge.calib.proof import Bounds


def test_effects_add_up(parts):
    """T5: the sum of single losses predicts what is measured with k nodes in float."""
    graph, layers, found, smoothed, candidates, effects = parts
    plan = make_plan(layers, found, effects, Bounds())
    order = [point.to_float for point in plan.pareto[1:]]
    frames = [frame[None] for frame in TOY_FRAMES[24:30]]
    for k in (0, 4, 8, 16):
        left = [entry for entry in candidates if entry.layer.name in order[k:]]
        for name, measured in losses(graph, qdq_graph(smoothed, left), frames).items():
            assert 1 - plan.pareto[k].cosine[name] == pytest.approx(measured, rel=0.15), (k, name)


def test_sweep_equals_quantising_one_node_in_the_whole_graph(parts):
    graph, _, _, smoothed, candidates, effects = parts
    entry = candidates[9]
    frames = [frame[None] for frame in TOY_FRAMES[24:30]]
    measured = losses(graph, qdq_graph(smoothed, [entry]), frames)
    for name, loss in measured.items():
        assert effects[entry.layer.name].loss[name] == pytest.approx(loss, rel=0.02, abs=1e-9)


def test_smoothing_saves_float_nodes(float_path, parts):
    """T7: without it the same search gives up several times as many nodes for the same bound."""
    bounds = Bounds(mean=0.999)
    _, layers, found, *_, effects = stages(float_path, alphas=())
    without = make_plan(layers, found, effects, bounds)
    with_smoothing = make_plan(parts[1], parts[2], parts[5], bounds)
    total = sum(not layer.excluded for layer in layers)
    assert total - len(with_smoothing.integers) <= 3
    assert total - len(without.integers) >= 10


def test_a_node_beyond_the_range_of_addition_is_float_however_little_its_loss(parts):
    """By hand: an NMSE of 0.031 for 0.03 allowed, beside a loss that the budget would take a thousand times."""
    _, layers, found, _, _, effects = parts
    name = next(iter(effects))
    outputs = effects[name].loss
    free = {other: Effect(loss=dict.fromkeys(outputs, 0.0), nmse=dict.fromkeys(outputs, 0.0)) for other in effects}
    for nmse, precision in ((0.029, "int8"), (0.031, "float")):
        alone = Effect(loss=dict.fromkeys(outputs, 1e-6), nmse=dict.fromkeys(outputs, nmse))
        plan = make_plan(layers, found, {**free, name: alone}, Bounds())
        (node,) = [node for node in plan.nodes if node.name == name]
        assert node.precision == precision
        assert node.reason == ("" if precision == "int8" else "outside the range where effects add up")


def test_plan_gives_every_float_node_a_reason(done):
    report, _ = done
    for node in report.plan.nodes:
        assert (node.precision == "float") == bool(node.reason)
        assert node.precision == "float" or node.act_scale == pytest.approx(max(-node.act_low, node.act_high) / 127)
