"""The built-in model: its packaged weights, and that its float graphs are proven at the first try."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from brixel_edge.commands.export import main
from brixel_edge.errors import SpecError
from brixel_edge.machine.memory import MIB
from brixel_edge.model.backbones import BUILT_IN, BUILT_IN_VIEW, backbone_spec
from brixel_edge.model.bundle import DEFAULT_MODEL
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.onnx_file import spec_from_onnx
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.built_in import ADAPTER_FILES, BACKBONE_FILE, built_in_adapter, built_in_backbone
from brixel_edge.network.feature_origin import feature_origin_of
from brixel_edge.network.student import load_student
from brixel_edge.runtimes.model import open_model

NAME = "vit_nano_dinov3"


@pytest.fixture(scope="module")
def student():
    return load_student(load_backbone(NAME, BUILT_IN), BUILT_IN, "conv")


def test_packaged_weights_are_small_and_trained(student):
    files = [BACKBONE_FILE, *ADAPTER_FILES.values()]
    assert sum(path.stat().st_size for path in files) <= 16 * MIB
    with safe_open(BACKBONE_FILE, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    assert student.trained and student.refiner.settings.full_frame and student.refiner.settings.texture_stem
    view = load_student(load_backbone(NAME, BUILT_IN), BUILT_IN_VIEW, "conv")
    assert view.trained and not view.refiner.settings.full_frame


def test_built_in_weights_are_of_one_backbone():
    with pytest.raises(SpecError, match="no weights of vit_mini_dinov3 are built in"):
        built_in_backbone("vit_mini_dinov3")
    with pytest.raises(SpecError, match="the built-in adapters are for vit_nano_dinov3"):
        built_in_adapter(backbone_spec("vit_mini_dinov3"), BUILT_IN)


def test_the_packaged_graph_is_of_the_packaged_weights(student):
    spec = spec_from_onnx(DEFAULT_MODEL)
    assert spec.trained and spec.feature_digest == feature_origin_of(student, NAME).digest
    assert (spec.backbone, spec.adapter, spec.image.height, spec.image.width) == (NAME, "conv", 512, 704)


def test_the_packaged_graph_gives_the_students_features(student, photographs):
    """Second method: the torch student on the same resized frame, its pre-processing written out."""
    with open_model(None, threads=1) as model:
        features = model(np.ascontiguousarray(photographs[0][:256, :352].repeat(2, 0).repeat(2, 1)))
    assert isinstance(features, FeatureMap)
    frame = photographs[0][:256, :352, ::-1].repeat(2, 0).repeat(2, 1) / 255
    spec = student.backbone.spec
    pixels = ((frame - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        expected = student(torch.from_numpy(np.ascontiguousarray(pixels)))[0].permute(1, 2, 0).numpy()
    assert np.abs(features.values - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("adapter", [BUILT_IN, BUILT_IN_VIEW])
def test_every_float_graph_passes_at_the_first_try(tmp_path, adapter, capsys):
    out = tmp_path / "m.brixel"
    flags = ["--adapter-weights", adapter, "--size", "256x320", "--engine", "onnx,onnx-fp16,onnx-bf16"]
    assert main([*flags, "--no-bench", "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["spec"]["trained"] is True
    assert [attempt["passed"] for attempt in record["attempts"]] == [True] * 3
    assert set(record["parity"]) == {"graph.fp32.onnx", "graph.fp16.onnx", "graph.bf16.onnx"}


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_gives_the_same_features(photographs):
    """The texture stem divides by roots of small variances; another engine's arithmetic must agree there."""
    frame = np.ascontiguousarray(photographs[1])
    with open_model(None, backend="ort", threads=1) as one, open_model(None, backend="openvino", threads=1) as other:
        a, b = (model(frame).values.reshape(-1, 384).astype(np.float64) for model in (one, other))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.quantile(cosine, 0.01) > 0.999
