"""Floating-point operations of a model, attention included: 2 per multiply-add, batch 1.

Counted by torch on the operators that really run. Fused attention is switched off for the count, so that its two
matrix products are seen. Norms, activations and resizes are not counted, as is the custom.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode


def count_gflop(module: nn.Module, *inputs: Tensor | list[Tensor]) -> float:
    """GFLOP of one forward pass.

    Args:
        module: is copied without its values, so that large models cost no memory.
        inputs: example inputs, tensors or lists of them; only their shapes matter.
    """
    shapes = copy.deepcopy(module).to("meta").eval()
    for part in shapes.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # type: ignore[assignment]  # to torch every attribute is a tensor or module
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shapes(*tree_map(lambda example: torch.empty_like(example, device="meta"), inputs))
    return counter.get_total_flops() / 1e9
