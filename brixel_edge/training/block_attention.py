"""Attention for a CPU that multiplies in bf16: plain products over blocks of queries.

torch's own fused attention on CPU gains nothing from bf16, while the plain products of oneDNN do (on an AVX512-BF16
core); blocks keep the score matrix in the cache.
Scores are rounded to bf16, which moved a trained ViT's map no further from fp32 than bf16 autocast alone had: mean
cosine 0.99988 instead of 0.99989. For inference only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Measured for 4 x 3 heads and 1025 tokens: 64, 128, 192, 342 and 513 queries take 27.6, 26.8, 28.1, 28.9 and 40.6 ms;
# torch's fused attention takes 46.2 ms in bf16 and 41.9 ms in fp32.
BLOCK = 128


def block_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale * q k^T) v, block by block.

    Args:
        query: (..., N, d).
        key: (..., M, d).
        value: (..., M, d).
        scale: None is 1 / sqrt(d).

    Returns:
        (..., N, d) bf16.
    """
    count, depth = query.shape[-2:]
    with torch.autocast("cpu", enabled=False):
        scaled = (query * (scale if scale is not None else depth**-0.5)).bfloat16().reshape(-1, count, depth)
        # One batch of contiguous matrices: as strided heads of a qkv product they cost a quarter more.
        transposed = key.bfloat16().reshape(-1, *key.shape[-2:]).transpose(1, 2)
        values = value.bfloat16().reshape(-1, *value.shape[-2:])
        result = scaled.new_empty(len(scaled), count, value.shape[-1])
        for start in range(0, count, BLOCK):
            scores = torch.bmm(scaled[:, start : start + BLOCK], transposed)
            result[:, start : start + BLOCK] = torch.bmm(torch.softmax(scores, dim=-1), values)
        return result.reshape(*query.shape[:-1], value.shape[-1])


class BlockAttention(TorchFunctionMode):
    """While active, unmasked scaled_dot_product_attention runs as `block_attention`; masked or causal is left alone."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if func is functional.scaled_dot_product_attention and len(args) == 3 and not _changes_result(options):
            return block_attention(*args, scale=options.get("scale"))
        return func(*args, **options)


def _changes_result(options: dict[str, Any]) -> bool:
    is_masked = options.get("attn_mask") is not None or options.get("is_causal", False)
    return is_masked or options.get("dropout_p", 0.0) > 0 or options.get("enable_gqa", False)
