"""Attention by blocks against torch's own."""

import pytest
import torch
from torch.nn import functional

from brixel_edge.training import block_attention
from brixel_edge.training.block_attention import BlockAttention


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 37, 16, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("block", [8, 37, 256])
def test_blocks_give_the_attention_of_all_queries(tokens, block, monkeypatch):
    monkeypatch.setattr(block_attention, "BLOCK", block)
    expected = functional.scaled_dot_product_attention(*tokens)
    with BlockAttention():
        found = functional.scaled_dot_product_attention(*tokens)
    assert found.dtype == torch.bfloat16 and found.shape == expected.shape
    assert (found.float() - expected).abs().max() < 0.03


def test_the_scale_is_honoured(tokens):
    with BlockAttention():
        found = functional.scaled_dot_product_attention(*tokens, scale=0.01)
    assert (found.float() - functional.scaled_dot_product_attention(*tokens, scale=0.01)).abs().max() < 0.01


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": torch.zeros(37, 37).fill_diagonal_(-1e9)}])
def test_masked_attention_is_left_alone(tokens, options):
    expected = functional.scaled_dot_product_attention(*tokens, **options)
    with BlockAttention():
        assert torch.equal(functional.scaled_dot_product_attention(*tokens, **options), expected)
    assert not torch.allclose(expected, functional.scaled_dot_product_attention(*tokens), atol=1e-2)
