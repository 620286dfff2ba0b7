"""Probes: what they read, what they learn, and that what is kept of a linear one is the matrix itself."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from brixel_edge.errors import DataError
from brixel_edge.evaluation import probe as probes
from brixel_edge.evaluation.fitting import TrainingSet, target_of, trained_probe
from brixel_edge.evaluation.probe import (
    PROBE_KEY,
    Probe,
    decoded,
    enlarged_strips,
    loss_of,
    normalised_points,
    points_of,
    prediction,
    save_probe,
)
from brixel_edge.evaluation.protocol import Protocol
from brixel_edge.evaluation.samples import IGNORED
from brixel_edge.evaluation.sources import FeatureKind
from brixel_edge.training.processes import Processes

CPU = torch.device("cpu")


def random_map(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(19, 30), (4, 5), (3, 11)])
def test_values_at_pixels_are_those_of_the_enlarged_map(size):
    logits = random_map(1, 3, 4, 5)
    whole = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0]
    rows, columns = (places.ravel() for places in np.mgrid[: size[0], : size[1]])
    given = points_of(logits, normalised_points(rows, columns, size))
    assert torch.allclose(given, whole.flatten(1).T, atol=1e-5)


@pytest.mark.parametrize("size", [(23, 17), (6, 8), (4, 5)])
def test_strips_put_together_are_the_enlarged_map(size, monkeypatch):
    monkeypatch.setattr(probes, "STRIP_NUMBERS", 4 * 3 * size[1])
    values = random_map(3, 6, 8)
    strips = list(enlarged_strips(values, size))
    assert [first for first, _ in strips] == list(range(0, size[0], 4))
    expected = functional.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
    assert torch.allclose(torch.cat([strip for _, strip in strips], dim=1), expected, atol=1e-6)


def test_targets_are_labelled_pixels_at_their_places():
    label = np.full((6, 9), IGNORED, np.uint8)
    label[2, 3], label[4, 8] = 1, 0
    target = target_of("segmentation", label, 100, seed=0)
    assert target.true.tolist() == [1, 0]
    # The centre of pixel (row 2, column 3) lies 2.5 of 6 down and 3.5 of 9 across.
    assert target.points[0].tolist() == pytest.approx([2 * 3.5 / 9 - 1, 2 * 2.5 / 6 - 1])
    many = target_of("segmentation", np.arange(200, dtype=np.uint8).reshape(10, 20), 50, seed=1)
    assert len(many.true) == 50 == len(set(many.true.tolist()))
    assert (
        many.true.tolist()
        != target_of("segmentation", np.arange(200, dtype=np.uint8).reshape(10, 20), 50, 2).true.tolist()
    )
    depth = np.zeros((2, 2), np.float32)
    depth[1, 0] = 255.0  # 255 is a depth like any other
    assert target_of("depth", depth, None, 0).true.tolist() == [255.0]


def test_epochs_take_turns_at_the_pixels_of_a_picture():
    label = np.arange(10, dtype=np.uint8).reshape(2, 5)
    target = target_of("segmentation", label, None, 0)
    parts = [target.part(epoch, 4) for epoch in range(4)]
    assert [len(part.true) for part in parts] == [4, 3, 3, 4]
    assert sorted(torch.cat([part.true for part in parts[:3]]).tolist()) == list(range(10))
    assert torch.equal(parts[0].true, parts[3].true) and torch.equal(parts[1].points, target.points[1::3])
    assert torch.equal(target.part(7, None).true, target.true)


def test_standardised_features_are_what_a_probe_reads():
    for is_light in (False, True):
        probe = Probe(3, 2, "segmentation", is_light=is_light, seed=0)
        plain = Probe(3, 2, "segmentation", is_light=is_light, seed=0)
        probe.mean.copy_(torch.tensor([5.0, -2.0, 0.5]))
        probe.scale.copy_(torch.tensor([0.5, 2.0, 0.0]))
        features = random_map(1, 3, 4, 4)
        by_hand = (features - probe.mean.view(1, 3, 1, 1)) * probe.scale.view(1, 3, 1, 1)
        assert torch.allclose(probe(features), plain(by_hand), atol=1e-5)


def test_losses_are_those_of_loops():
    given, classes = random_map(5, 4), torch.tensor([0, 3, 2, 1, 1])
    rows = zip(given.tolist(), classes.tolist(), strict=True)
    by_hand = -sum(math.log(math.exp(row[c]) / sum(math.exp(v) for v in row)) for row, c in rows)
    loss, weight = loss_of("segmentation", given, classes, "log")
    assert (loss.item(), weight) == (pytest.approx(by_hand, rel=1e-5), 5)
    depth = torch.tensor([1.0, 2.0, 4.0])
    answers = random_map(3, 1, seed=1)
    gaps = [a - math.log(d) for a, d in zip(answers[:, 0].tolist(), depth.tolist(), strict=True)]
    assert loss_of("depth", answers, depth, "log")[0].item() == pytest.approx(sum(abs(g) for g in gaps), rel=1e-5)
    silog = sum(g * g for g in gaps) / 3 - 0.15 * (sum(gaps) / 3) ** 2
    loss, weight = loss_of("depth", answers, depth, "silog")
    assert (loss.item(), weight) == (pytest.approx(silog, rel=1e-5), 1)
    vectors, normals = random_map(2, 3, seed=2), functional.normalize(random_map(2, 3, seed=3))
    cosines = [float(v @ n / v.norm()) for v, n in zip(vectors, normals, strict=True)]
    assert loss_of("normals", vectors, normals, "log")[0].item() == pytest.approx(sum(1 - c for c in cosines), rel=1e-5)


def test_answers_are_classes_depth_and_vectors():
    values = random_map(3, 2, 4)
    assert decoded("segmentation", values).tolist() == values.permute(1, 2, 0).argmax(-1).tolist()
    assert decoded("depth", torch.full((1, 1, 1), 2.0)).item() == pytest.approx(math.e**2)
    assert torch.isfinite(decoded("depth", torch.full((1, 1, 1), 1e4))).all()
    assert torch.equal(decoded("normals", values)[1, 3], values[:, 1, 3])


class Maps(dict):
    """A store that holds what it is given."""


def separable(count=6, grid=(5, 7), noise=0.1):
    """Pictures whose class is the larger of two channels, at a large and useless offset and scale."""
    generator = torch.Generator().manual_seed(5)
    maps, labels = Maps(), {}
    for index in range(count):
        cells = torch.randn(3, *grid, generator=generator)
        maps[index] = (cells * torch.tensor([1.0, 1.0, 50.0]).view(3, 1, 1) + 20).half()
        labels[index] = (cells[0] > cells[1]).numpy().astype(np.uint8)
    return maps, labels


def kind():
    return FeatureKind(name="k", source=object())


def fit(training, probe, protocol, processes=None, seed=0):
    return trained_probe(training, kind(), probe, protocol, processes or Processes(), device=CPU, seed=seed)


def train(protocol=None, processes=None, own=None, is_light=False):
    maps, labels = separable()
    own = range(len(maps)) if own is None else own
    targets = {i: target_of("segmentation", labels[i], None, i) for i in own}
    probe = Probe(3, 2, "segmentation", is_light=is_light, seed=0)
    training = TrainingSet(count=len(maps), targets=targets, store=Maps({i: maps[i] for i in own}))
    protocol = protocol or Protocol(name="labels", epochs=40, batch=4, learning_rate=0.05)
    return fit(training, probe, protocol, processes, seed=3), maps, labels


@pytest.mark.parametrize("is_light", [False, True])
def test_a_probe_learns_what_is_there(is_light):
    probe, maps, labels = train(is_light=is_light)
    right = [(prediction(probe, maps[i].float()[None], (5, 7)) == labels[i]).mean() for i in maps]
    assert np.mean(right) > 0.95
    mean = torch.stack([maps[i].double().flatten(1) for i in maps]).mean((0, 2))
    deviation = torch.stack([maps[i].double() for i in maps]).permute(1, 0, 2, 3).flatten(1).std(1, unbiased=False)
    assert torch.allclose(probe.mean.double(), mean, rtol=1e-5)
    assert torch.allclose(1 / probe.scale.double(), deviation, rtol=1e-4)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    first, second = (train()[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    one, two = (Probe(3, 2, "normals", is_light=False, seed=seed) for seed in (1, 2))
    assert not torch.equal(one.out.weight, two.out.weight)


def test_a_channel_that_never_changes_is_not_blown_up():
    maps, labels = separable()
    for index in maps:
        maps[index][2] = 7.0
    targets = {i: target_of("segmentation", labels[i], None, i) for i in maps}
    probe = Probe(3, 2, "segmentation", is_light=False, seed=0)
    fit(TrainingSet(count=6, targets=targets, store=maps), probe, Protocol(name="p", epochs=1))
    assert probe.scale[2] == 0 and torch.isfinite(probe.out.weight).all()


def test_depth_starts_at_the_mean_log_depth():
    depths = [np.full((4, 4), value, np.float32) for value in (1.0, 4.0)]
    targets = {i: target_of("depth", depth, None, i) for i, depth in enumerate(depths)}
    maps = Maps({i: torch.zeros(2, 2, 2).half() for i in range(2)})
    probe = Probe(2, 1, "depth", is_light=False, seed=0)
    protocol = Protocol(name="p", epochs=1, learning_rate=1e-9)
    fit(TrainingSet(count=2, targets=targets, store=maps), probe, protocol)
    assert prediction(probe, maps[0].float()[None], (4, 4)) == pytest.approx(np.full((4, 4), 2.0), rel=1e-5)


def test_labels_without_one_labelled_pixel_are_refused():
    targets = {0: target_of("segmentation", np.full((3, 3), IGNORED, np.uint8), None, 0)}
    training = TrainingSet(count=1, targets=targets, store=Maps({0: torch.zeros(3, 1, 1).half()}))
    with pytest.raises(DataError, match="not one pixel"):
        fit(training, Probe(3, 2, "segmentation", is_light=False, seed=0), Protocol(name="p"))


def test_a_linear_probe_is_kept_as_its_matrix_on_plain_features(tmp_path):
    probe, maps, _ = train()
    save_probe(tmp_path / "p" / "probe.safetensors", probe, {"classes": ["a", "b"]})
    with safe_open(tmp_path / "p" / "probe.safetensors", framework="pt") as file:
        weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        facts = json.loads(file.metadata()[PROBE_KEY])
    assert facts == {"kind": "segmentation", "is_linear": True, "classes": ["a", "b"]}
    features = maps[0].double()
    expected = probe.double()(features[None])[0]
    given = torch.einsum("kd,dhw->khw", weight.double(), features) + bias.double().view(-1, 1, 1)
    assert torch.allclose(given, expected, atol=1e-3)


def test_probabilities_are_enlarged_where_that_is_asked_for():
    probe = Probe(2, 3, "segmentation", is_light=False, seed=0)
    torch.nn.init.normal_(probe.out.weight, std=3, generator=torch.Generator().manual_seed(0))
    seen = 3 * random_map(1, 2, 3, 3, seed=8)
    shares = functional.interpolate(probe(seen).softmax(1), size=(24, 24), mode="bilinear", align_corners=False)
    mixed = prediction(probe, seen, (24, 24), mixes_probabilities=True)
    assert np.array_equal(mixed, shares[0].argmax(0).numpy())
    assert not np.array_equal(mixed, prediction(probe, seen, (24, 24)))
