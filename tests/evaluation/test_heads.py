"""Heads that an evaluation makes: against the probe, class means and components found by a second way; refusals."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from brixel_edge.errors import SpecError
from brixel_edge.evaluation.evaluate import evaluate, probe_path
from brixel_edge.evaluation.fitting import target_of
from brixel_edge.evaluation.heads import Material, made_head
from brixel_edge.evaluation.kinds import feature_kinds
from brixel_edge.evaluation.probe import Probe, prediction
from brixel_edge.evaluation.settings import EvalSettings, InputSize
from brixel_edge.evaluation.tasks import open_labelled
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.feature_origin import feature_origin_of
from brixel_edge.network.head_file import load_head
from brixel_edge.network.student import Student
from brixel_edge.training.processes import Processes

pytestmark = pytest.mark.usefixtures("tiny")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    """Red and blue halves, with two of the eleven classes, the whole of each picture labelled."""
    root = tmp_path_factory.mktemp("camvid")
    for split in ("train", "test"):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for number in range(2):
            label = np.zeros((32, 64), np.uint8)
            label[:, 32:] = 8
            frame = np.where(label[..., None] == 8, (200, 30 + 9 * number, 30), (30, 30, 200)).astype(np.uint8)
            cv2.imwrite(str(root / split / "images" / f"{number}.png"), frame)
            cv2.imwrite(str(root / split / "labels" / f"{number}.png"), label)
    return root


@pytest.fixture
def settings(camvid):
    return EvalSettings(
        task="camvid",
        data=camvid,
        model="tiny",
        features=("baseline",),
        size=InputSize(height=32, width=64),
        seeds=1,
        epochs=3,
        device="cpu",
        threads=1,
    )


class Store(dict):
    """Features by number."""


@pytest.fixture
def material(settings):
    data = open_labelled("camvid", settings.data)
    data = dataclasses.replace(data, classes=("red", "blue"), colours=((255, 0, 0), (0, 0, 255)))
    (kind,) = feature_kinds(dataclasses.replace(settings, features=("logits",)), CPU, (32, 64))
    generator = torch.Generator().manual_seed(0)
    store = Store({number: torch.randn(32, 2, 4, generator=generator).half() for number in range(2)})
    label = np.array([[0, 0, 1, 1], [0, 1, 1, 1]], np.uint8)
    targets = {number: target_of("segmentation", label, None, 0) for number in store}
    return Material(
        data=data, kind=kind, store=store, targets=targets, processes=Processes(rank=0, local_rank=0, world=1)
    )


def test_prototypes_are_the_mean_directions_of_the_classes(material):
    head = made_head("prototypes", Probe(32, 2, "segmentation", is_light=False, seed=0), material)
    labels = np.array([0, 0, 1, 1, 0, 1, 1, 1])
    cells = np.concatenate([values.float().numpy().reshape(32, 8).T for values in material.store.values()])
    directions = cells / np.linalg.norm(cells, axis=1, keepdims=True)
    means = np.stack([directions[np.tile(labels, 2) == number].mean(0) for number in range(2)])
    assert np.allclose(head.weight, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
    assert head.spec.classes == ("red", "blue") and head.spec.kind == "prototypes"


def test_components_are_those_of_all_cells(material):
    head = made_head("pca-3", Probe(32, 2, "segmentation", is_light=False, seed=0), material)
    cells = np.concatenate([values.double().numpy().reshape(32, 8).T for values in material.store.values()])
    _, _, axes = np.linalg.svd(cells - cells.mean(0), full_matrices=False)
    assert np.allclose(np.abs(np.sum(head.weight * axes[:3], axis=1)), 1, atol=1e-4)
    assert np.allclose(head.bias, -head.weight @ cells.mean(0), atol=1e-4)


def test_a_probe_s_head_says_what_the_probe_says(material):
    probe = Probe(32, 2, "segmentation", is_light=False, seed=0).eval()
    probe.mean.normal_(generator=torch.Generator().manual_seed(1))
    probe.scale.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    head = made_head("probe", probe, material)
    features = material.store[0].float()[None]
    says = head(features.numpy())[0].argmax(0)
    assert np.array_equal(says, prediction(probe, features, (2, 4)))


def test_baseline_logits_and_native_are_heads_of_the_backbone_itself(settings, tmp_path):
    origin = feature_origin_of(Student(load_backbone("tiny"), None), "tiny")
    evaluate(dataclasses.replace(settings, features=("baseline", "native", "s2"), epochs=1, out=tmp_path))
    for name in ("baseline", "native"):
        assert load_head(probe_path(tmp_path, name)).origin == origin
    assert probe_path(tmp_path, "s2").is_file()  # a probe, and no head
    record = evaluate(dataclasses.replace(settings, save_head=tmp_path / "p.safetensors"))
    assert record["head"]["kind"] == "segmentation" and len(record["head"]["classes"]) == 11
    assert load_head(tmp_path / "p.safetensors").origin == origin


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ("baseline", "native")}, "for one kind of features, here are baseline, native"),
        ({"features": ("s2",)}, "of no model that can be exported"),
        ({"head_kind": "pca-99"}, "pca-99: there are 32 channels"),
        ({"head_kind": "prototypes"}, "no prototype of building, pole"),
    ],
)
def test_what_cannot_be_saved_is_refused(settings, tmp_path, changes, message):
    with pytest.raises(SpecError, match=message):
        evaluate(dataclasses.replace(settings, epochs=1, save_head=tmp_path / "p.safetensors", **changes))
    assert not (tmp_path / "p.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_kind": "best"}, "is not probe, prototypes or pca-K"),
        ({"save_head": None, "head_kind": "prototypes"}, "needs --save-head"),
        ({"save_head": "p.pth"}, "is a safetensors file"),
        ({"save_head": "no/where/p.safetensors"}, "no folder no/where"),
        ({"task": "davis"}, "is for classes and depth; davis has video"),
        ({"task": "nyuv2-normals", "probe": "linear"}, "nyuv2-normals has normals"),
        ({"task": "nyuv2-depth"}, "add --probe linear"),
        ({"task": "nyuv2-depth", "probe": "linear", "head_kind": "prototypes"}, "prototypes is for classes"),
    ],
)
def test_settings_of_heads_that_cannot_be(settings, tmp_path, changes, message):
    given = {"save_head": "p.safetensors", **changes}
    given["save_head"] = None if given["save_head"] is None else Path(given["save_head"])
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(settings, **given)
