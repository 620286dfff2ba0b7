"""Heads in torch: folded into a refiner's last layers they answer as they do on whole features."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny_heads import head_of

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
from brixel_edge.export.graph.reference import reference_features
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.conv_adapter import UnitConv
from brixel_edge.network.feature_origin import feature_origin_of
from brixel_edge.network.head_file import load_head, save_head
from brixel_edge.network.student import load_student

pytestmark = pytest.mark.usefixtures("tiny")
CONV = ConvSettings(width=16)


def student_of(adapter, seed=0, **changes):
    """With numbers in every place that a fold must carry along; many start at zero or one."""
    student = load_student(
        load_backbone("tiny", **changes), "random", adapter, conv=CONV if adapter == "conv" else None
    )
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in student.refiner.parameters() if student.refiner is not None else ():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    for module in student.refiner.modules() if student.refiner is not None else ():
        if isinstance(module, UnitConv):  # a random backbone's norm, whose weights it takes, is all ones
            module.unit.uniform_(0.5, 2, generator=generator)
    return student


@pytest.mark.parametrize("adapter", ["brixel", "conv", "none"])
@pytest.mark.parametrize("kind", ["segmentation", "depth", "pca", "prototypes"])
@pytest.mark.parametrize("keeps_features", [False, True])
def test_a_fused_head_answers_as_the_head_outside(adapter, kind, keeps_features):
    student = student_of(adapter)
    head = head_of(student, kind, keeps_features=keeps_features)
    spec = spec_from_student(student, 64, 96, adapter, name="tiny", head=head.spec)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    with torch.no_grad():
        given = FusedModel(student, spec, head=head).eval()(torch.from_numpy(image))
    given = given if isinstance(given, tuple) else (given,)
    assert [tuple(values.shape) for values in given] == list(spec.outputs.values())
    (features,) = reference_features(student, spec, [image])
    expected = np.einsum("kd,bdhw->bkhw", head.weight.astype(float), features) + head.bias[:, None, None]
    if kind == "prototypes":
        expected = expected / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    assert expected.std() > 1e-3
    assert np.abs(given[-1].numpy() - expected).max() / np.abs(expected).max() < 1e-4
    assert np.abs(head(features) - expected).max() < 1e-5
    if keeps_features:
        assert np.abs(given[0].numpy() - features).max() < 1e-4 * np.abs(features).max()


def test_a_folded_head_makes_no_map_of_all_channels():
    student = student_of("conv")
    head = head_of(student)
    spec = spec_from_student(student, 64, 96, "conv", name="tiny", head=head.spec)
    model = FusedModel(student, spec, head=head).eval()
    channels = []
    for module in model.refiner.head.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: channels.append(output.shape[1]))
    with torch.no_grad():
        model(torch.zeros(1, 64, 96, 3, dtype=torch.uint8))
    assert channels == [5, 5, 5]  # of the base, of its correction, and of the residual


def test_a_feature_space_is_told_by_weights_layers_and_adapter_and_not_by_a_name():
    plain = feature_origin_of(student_of("none"), "tiny")
    assert plain.digest == feature_origin_of(student_of("none"), "another name").digest
    others = [
        feature_origin_of(student_of("none", tap_layers=(0,)), "tiny"),
        feature_origin_of(student_of("conv"), "tiny"),
        feature_origin_of(student_of("conv", seed=5), "tiny"),
        feature_origin_of(student_of("brixel"), "tiny"),
    ]
    assert len({origin.digest for origin in (plain, *others)}) == 5
    # Without an adapter the last layer alone is read.
    assert feature_origin_of(student_of("none", tap_layers=(1,)), "tiny").digest == plain.digest


def test_a_head_of_other_features_is_refused_in_one_line():
    head = head_of(student_of("conv"))
    head.require_origin(feature_origin_of(student_of("conv"), "tiny"), "p.safetensors")
    with pytest.raises(SpecError, match=r"p\.safetensors reads other features \(tiny, adapter conv, .*brixel-eval"):
        head.require_origin(feature_origin_of(student_of("brixel"), "tiny"), "p.safetensors")


def test_a_head_file_gives_back_what_was_saved(tmp_path):
    head = head_of(student_of("none"), "prototypes")
    save_head(tmp_path / "new" / "p.safetensors", head, {"task": "camvid"})
    again = load_head(tmp_path / "new" / "p.safetensors")
    assert again.spec == head.spec and again.origin == head.origin
    assert np.array_equal(again.weight, head.weight) and np.array_equal(again.bias, head.bias)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "no head at"),
        ({}, "is no head; brixel-eval"),
        ({"brixel_probe": "{}"}, "light probe cannot be fused"),
        ({"brixel_head": '{"head_version": 9}'}, "version 9, this release reads 1"),
        ({"brixel_head": '{"head_version": 1, "head": {}, "features": {}}'}, "not a readable head"),
    ],
)
def test_a_file_that_is_no_head_is_refused(tmp_path, metadata, message):
    path = tmp_path / "p.safetensors"
    if metadata is not None:
        state = {"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
        save_file(state, path, metadata=metadata)
    with pytest.raises(BundleError, match=message):
        load_head(path)


def test_damaged_files_and_numbers_are_refused(tmp_path):
    (tmp_path / "p.safetensors").write_bytes(b"no")
    with pytest.raises(BundleError, match="not a readable safetensors"):
        load_head(tmp_path / "p.safetensors")
    head = head_of(student_of("none"))
    with pytest.raises(SpecError, match="not finite"):
        dataclasses.replace(head, bias=head.bias + np.nan)
    with pytest.raises(SpecError, match="these are"):
        dataclasses.replace(head, bias=head.bias[:2])
