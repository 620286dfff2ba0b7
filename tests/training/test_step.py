"""One step: stochastic depth over processes, normalisation, who gets gradients, the teacher in parts."""

import numpy as np
import pytest
import torch
from torch import nn

from brixel_edge.model.backbones import BACKBONES, BackboneSpec
from brixel_edge.network.adapter import DropPath
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.student import Student, build_refiner
from brixel_edge.training.losses import LossSettings
from brixel_edge.training.prefetch import batch_from_samples
from brixel_edge.training.processes import Processes
from brixel_edge.training.samples import Sample
from brixel_edge.training.step import Arithmetics, Distiller, DrawnDropPath, draw_drop_paths


@pytest.fixture
def student(monkeypatch):
    spec = BackboneSpec(
        timm_name="vit_small_patch16_dinov3",
        patch_px=16,
        width=32,
        depth=2,
        tap_layers=(0, 1),
        mean=(0.5, 0.4, 0.3),
        std=(0.1, 0.2, 0.4),
        licence="Apache-2.0",
        overrides=(("embed_dim", 32), ("depth", 2), ("num_heads", 2)),
    )
    monkeypatch.setitem(BACKBONES, "tiny", spec)
    refiner = build_refiner(32, 2)
    draw_drop_paths(refiner, 0.3)
    return Student(load_backbone("tiny"), refiner).train()


def distiller_of(student, **options):
    return Distiller(
        student,
        student,
        torch.optim.Adam(student.refiner.parameters()),
        losses=LossSettings(),
        arithmetics=Arithmetics(is_student_bf16=False, is_teacher_bf16=options.pop("is_bf16", False)),
        processes=Processes(),
        **options,
    )


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    return batch_from_samples(
        [
            Sample(
                name=str(number),
                student=random.integers(0, 256, (32, 32, 3), np.uint8),
                teacher=random.integers(0, 256, (128, 128, 3), np.uint8),
            )
            for number in range(4)
        ],
        {},
    )


def test_stochastic_depth_is_drawn_for_the_whole_batch_and_each_process_takes_its_rows():
    kept = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        path = DrawnDropPath(0.5)
        path.draw(torch.Generator().manual_seed(7), 8 // world, Processes(rank=rank, world=world), torch.device("cpu"))
        kept.append(path.kept)
    assert torch.equal(torch.cat(kept[1:]), kept[0])
    assert 0 < kept[0].sum() < 8


def test_stochastic_depth_skips_and_scales_in_training_only():
    path = DrawnDropPath(0.25)
    path.kept = torch.tensor([True, False, True])
    x = torch.ones(3, 2, 2)
    assert path(x)[:, 0, 0].tolist() == pytest.approx([1 / 0.75, 0, 1 / 0.75])
    assert torch.equal(path.eval()(x), x)


def test_every_drop_path_of_an_adapter_is_drawn_from_outside(student):
    kinds = [type(module) for module in student.refiner.modules()]
    assert DropPath not in kinds and kinds.count(DrawnDropPath) == 4  # two taps, and two more extractors at the last


def test_pixels_are_normalised_as_the_backbone_was_trained(student):
    pixels = np.full((1, 2, 3, 3), (255, 0, 51), np.uint8)
    normalised = distiller_of(student).normalised(pixels)
    assert normalised.shape == (1, 3, 2, 3)
    assert normalised[0, :, 1, 2].tolist() == pytest.approx([(1 - 0.5) / 0.1, -0.4 / 0.2, (0.2 - 0.3) / 0.4])


def test_only_the_refiner_gets_gradients_and_the_backbone_is_in_evaluation_mode(student, batch):
    distiller_of(student).step(batch, 0, 1e-3)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in student.backbone.parameters())
    assert all(parameter.grad is not None for parameter in student.refiner.parameters())
    assert not any(module.training for module in student.backbone.modules())


def test_the_learning_rate_of_a_step_is_the_one_used(student, batch):
    distiller = distiller_of(student)
    before = [parameter.detach().clone() for parameter in student.refiner.parameters()]
    distiller.step(batch, 0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, student.refiner.parameters(), strict=True))
    distiller.step(batch, 1, 1e-2)
    moved = max((a - b).abs().max().item() for a, b in zip(before, student.refiner.parameters(), strict=True))
    assert 1e-3 < moved <= 1.1e-2  # Adam's steps are about the learning rate


def test_the_teacher_in_parts_gives_the_same_maps(student, batch):
    whole = distiller_of(student).targets(batch)
    assert whole.shape == (4, 32, 8, 8) and whole.dtype == torch.float32
    assert torch.allclose(distiller_of(student, teacher_batch=3).targets(batch), whole, atol=1e-5)


def test_a_teacher_in_bf16_is_close(student, batch):
    whole, half = distiller_of(student).targets(batch), distiller_of(student, is_bf16=True).targets(batch)
    assert half.dtype == torch.float32 and not torch.equal(half, whole)
    assert nn.functional.cosine_similarity(half, whole).mean() > 0.999


def test_a_teacher_of_ones_own_is_used_though_it_has_no_length(student, batch):
    calls = []

    class Other(nn.Module):
        def forward(self, x):
            calls.append(x.shape)
            return [torch.zeros(len(x), 32, 8, 8)]

        def __len__(self):
            raise TypeError("no length")

    assert distiller_of(student, teacher=Other()).targets(batch).abs().sum() == 0 and calls


def test_the_teacher_sees_its_view_normalised_and_nothing_else_and_its_last_map_counts(student, batch):
    seen = []

    def teacher(x):
        seen.append(x)
        return [torch.full((len(x), 32, 8, 8), float(number)) for number in (1, 2)]

    targets = distiller_of(student, teacher=teacher).targets(batch)
    assert torch.equal(targets, torch.full((4, 32, 8, 8), 2.0))
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.1, 0.2, 0.4])
    expected = ((batch.teacher / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.allclose(torch.cat(seen).numpy(), expected, atol=1e-4)
