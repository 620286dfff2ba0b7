"""Exact simplifications of a frozen refiner before it is traced: fewer passes over wide tensors, the same values."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from brixel_edge.model.head import Head
from brixel_edge.network.adapter import BrixelRefiner
from brixel_edge.network.deformable import DeformableAttention, SamplerKind
from brixel_edge.network.head import fold_head


def folded(refiner: nn.Module, sampler: SamplerKind, height: int, width: int, head: Head | None = None) -> nn.Module:
    """A frozen copy for one token grid, with one lowering of sampling.

    Args:
        refiner: in evaluation mode.
        sampler: lowering of deformable sampling.
        height: of the token grid.
        width: of the token grid.
        head: linear, to be answered with instead of features; None keeps the features.
    """
    refiner = copy.deepcopy(refiner).eval().requires_grad_(False)
    for module in refiner.modules():
        if isinstance(module, DeformableAttention):
            module.sampler = sampler
            module.fold_offset_scale(height, width)
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    if isinstance(refiner, BrixelRefiner):
        _fold_group_norm(refiner)
    if head is not None:
        fold_head(refiner, head)
    return refiner


def _fold_batch_norms(sequence: nn.Sequential) -> None:
    """Each BatchNorm into the convolution before it."""
    for index in range(len(sequence) - 1):
        conv, norm = sequence[index], sequence[index + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            sequence[index] = fuse_conv_bn_eval(conv, norm)
            sequence[index + 1] = nn.Identity()


def _fold_group_norm(refiner: BrixelRefiner) -> None:
    """The scale and shift of the adapter's last norm into the head's first (1x1) convolution."""
    norm, conv = refiner.adapter.norm1, refiner.head.align_in
    assert conv.bias is not None
    with torch.no_grad():
        conv.bias += (conv.weight[:, :, 0, 0] @ norm.bias).reshape(-1)
        conv.weight *= norm.weight.reshape(1, -1, 1, 1)
    refiner.adapter.norm1 = nn.GroupNorm(norm.num_groups, norm.num_channels, eps=norm.eps, affine=False)
