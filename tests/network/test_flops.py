"""FLOPs against the counts published for the public implementation, and one by hand."""

import pytest
import torch
from torch import nn

from brixel_edge.model.backbones import BACKBONES
from brixel_edge.network.backbone import Backbone, create_vit
from brixel_edge.network.flops import count_gflop
from brixel_edge.network.student import Student, build_refiner


def backbone_and_student(name: str) -> tuple[Backbone, Student]:
    spec = BACKBONES[name]
    with torch.device("meta"):
        backbone = Backbone(create_vit(spec), spec, trained=False)
        return backbone, Student(backbone, build_refiner(spec.width, 4))


@pytest.mark.parametrize(
    ("name", "backbone_gflop", "live_gflop", "teacher_gflop"),
    [
        ("vit_small_patch16_dinov3", 12.5, 6.6, 487),
        ("vit_base_patch16_dinov3", 47.1, 14.3, 1321),
        ("vit_small_plus_patch16_dinov3", 16.2, None, 545),
    ],
)
def test_counts_equal_the_published_within_a_percent(name, backbone_gflop, live_gflop, teacher_gflop):
    backbone, student = backbone_and_student(name)
    small, large = torch.empty(1, 3, 256, 256), torch.empty(1, 3, 1024, 1024)
    alone = count_gflop(backbone, small)
    assert alone == pytest.approx(backbone_gflop, rel=0.01)
    assert count_gflop(backbone, large) == pytest.approx(teacher_gflop, rel=0.01)
    if live_gflop:
        assert count_gflop(student, small) - alone == pytest.approx(live_gflop, rel=0.015)


def test_a_convolution_by_hand():
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert count_gflop(conv, torch.empty(1, 3, 10, 10)) == pytest.approx(2 * 8 * 3 * 9 * 100 / 1e9)
