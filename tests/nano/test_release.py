"""What leaves the training: fp16 weights that load as they are, and folders of photographs by licence."""

from __future__ import annotations

import csv

import pytest
import torch
from safetensors import safe_open

from brixel_edge.model.adapters import ConvSettings
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.student import adapter_metadata, load_student
from brixel_edge.network.weights import save_adapter
from nano.network import build
from nano.release import link_photographs, write_adapter, write_backbone


@pytest.fixture(scope="module")
def student():
    student = load_student(load_backbone("vit_nano_dinov3", seed=2), "random", "conv", conv=ConvSettings(width=16))
    for name, value in student.refiner.named_buffers():
        if name.endswith("running_var"):
            value.fill_(1e-9)  # nothing, in fp16
    return student


def test_a_backbone_is_halved_and_loads(tmp_path):
    vit = build(seed=2)
    write_backbone(vit, tmp_path / "nano.safetensors")
    with safe_open(tmp_path / "nano.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    loaded = load_backbone("vit_nano_dinov3", tmp_path / "nano.safetensors")
    for key, value in vit.state_dict().items():
        assert torch.equal(loaded.vit.state_dict()[key], value.half().float())


def test_an_adapter_is_halved_but_for_its_statistics(student, tmp_path):
    save_adapter(tmp_path / "adapter.safetensors", student.refiner.state_dict(), adapter_metadata(student))
    write_adapter(tmp_path / "adapter.safetensors", tmp_path / "small.safetensors")
    loaded = load_student(student.backbone, tmp_path / "small.safetensors", "conv").refiner.state_dict()
    for key, value in student.refiner.state_dict().items():
        kept = value if "running_" in key or not value.is_floating_point() else value.half().float()
        assert torch.equal(loaded[key], kept), key
    assert (tmp_path / "small.safetensors").stat().st_size < 0.6 * (tmp_path / "adapter.safetensors").stat().st_size


def test_photographs_are_parted_by_licence(tmp_path):
    (tmp_path / "photos").mkdir()
    rows = [("a.png", "CC0-1.0 (LICENSE)"), ("b.png", "GPL-2.0-only")]
    with (tmp_path / "MANIFEST.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "licence"])
        for name, licence in rows:
            (tmp_path / "photos" / name).write_bytes(b"x")
            writer.writerow([f"photos/{name}", licence])
    for _ in range(2):  # a second time nothing is wrong
        train, held = link_photographs(tmp_path, tmp_path / "work")
    assert [path.name for path in train.iterdir()] == ["a.png"]
    assert [path.name for path in held.iterdir()] == ["b.png"]
    assert (train / "a.png").read_bytes() == b"x"
