"""Sampling: both lowerings against each other and against a sample computed by hand."""

import pytest
import torch

from brixel_edge.network.deformable import (
    DeformableAttention,
    reference_points,
    sample_with_gather,
    sample_with_gridsample,
)


def test_samplers_agree_inside_at_borders_and_far_outside():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(3, 5, 7, 4, generator=generator)
    locations = torch.rand(3, 50, 4, 2, generator=generator) * 6 - 3  # most lie outside the map
    difference = sample_with_gather(value, locations) - sample_with_gridsample(value, locations)
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("sampler", [sample_with_gather, sample_with_gridsample])
def test_sample_between_two_cells_is_their_weighted_mean(sampler):
    value = torch.tensor([[[[1.0, 5.0]]]])  # one row of two cells, centres at x = -0.5 and 0.5
    quarter_way = torch.tensor([[[[-0.25, 0.0]]]])
    assert sampler(value, quarter_way).item() == pytest.approx(0.75 * 1 + 0.25 * 5, abs=1e-6)
    half_outside = torch.tensor([[[[-1.0, 0.0]]]])  # half a cell left of the first centre: half of it is zero padding
    assert sampler(value, half_outside).item() == pytest.approx(0.5, abs=1e-6)


def test_reference_points_are_cell_centres_in_row_major_order():
    assert reference_points(1, 2).tolist() == [[-0.5, 0.0], [0.5, 0.0]]
    assert reference_points(2, 1).tolist() == [[0.0, -0.5], [0.0, 0.5]]


def test_attention_with_zero_offsets_reads_the_cell_under_the_query():
    attention = DeformableAttention(32, heads=4, points=2, value_ratio=1.0)
    with torch.no_grad():
        attention.sampling_offsets.bias.zero_()
        for projection in (attention.value_proj, attention.output_proj):
            projection.weight.copy_(torch.eye(32))
    tokens = torch.randn(1, 6, 32)
    with torch.no_grad():
        read = attention(torch.randn(1, 6, 32), reference_points(2, 3), tokens, (2, 3))
    assert torch.allclose(read, tokens, atol=1e-5)


def test_folded_offset_scale_changes_nothing():
    attention = DeformableAttention(32, heads=4, points=2)
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    arguments = torch.randn(1, 24, 32), reference_points(4, 6), torch.randn(1, 6, 32), (2, 3)
    with torch.no_grad():
        before = attention(*arguments)
        attention.fold_offset_scale(2, 3)
        assert torch.allclose(attention(*arguments), before, atol=1e-5)
