"""A head in torch: on whole features, or folded into the last layers of a refiner, where no whole feature is made.

Both refiners end in a sum of two linear things: a 1x1 convolution of narrow channels, and the backbone's own map,
enlarged. So a linear head of the sum is the sum of two heads: W (V z + b) + c = (W V) z + (W b + c), and W commutes
with enlarging. The arithmetic of the last layer falls from D outputs to K, and the D-channel map is never written.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brixel_edge.errors import SpecError
from brixel_edge.model.head import LEAST_LENGTH, Head
from brixel_edge.network.adapter import BrixelRefiner
from brixel_edge.network.conv_adapter import ConvRefiner, UnitConv


class HeadOnFeatures(nn.Module):
    """A head as it was trained: (B, D, h, w) features -> (B, K, h, w).

    Args:
        head: its numbers.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.is_cosine = not head.spec.is_linear
        bias = None if self.is_cosine else torch.from_numpy(head.bias).double()
        self.map = conv_of(torch.from_numpy(head.weight).double(), bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, K, h, w)."""
        answer = self.map(features)
        if not self.is_cosine:
            return answer
        return answer / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(min=LEAST_LENGTH)


def conv_of(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A frozen 1x1 convolution of (K, C) and (K,), given in any precision."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None).requires_grad_(False)
    conv.weight.copy_(weight[:, :, None, None])
    if conv.bias is not None and bias is not None:
        conv.bias.copy_(bias)
    return conv


def fold_head(refiner: nn.Module, head: Head) -> None:
    """Make a refiner answer with a head instead of giving features, in place; the same up to rounding.

    Args:
        refiner: the paper's or ours, in evaluation mode, yours to change.
        head: linear.

    Raises:
        SpecError: a head that is not linear, or another refiner.
    """
    if not head.spec.is_linear:
        raise SpecError(f"a head of {head.spec.label} divides by the feature's length, so it cannot be folded")
    weight, bias = (torch.from_numpy(values).double() for values in (head.weight, head.bias))
    project = conv_of(weight, None)
    if isinstance(refiner, BrixelRefiner):
        refiner.head.out_conv = _folded(refiner.head.out_conv, weight, bias)
        refiner.head.project = project
    elif isinstance(refiner, ConvRefiner):
        refiner.head.out = _folded(refiner.head.out, weight, bias)  # type: ignore[assignment]  # its unit is folded too
        refiner.head.correct = _folded(refiner.head.correct, weight, None)  # type: ignore[assignment]  # as out
        refiner.head.project = project
    else:
        raise SpecError(f"no head is folded into a {type(refiner).__name__}")


@torch.no_grad()
def _folded(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1x1 convolution with a linear map behind it, multiplied out in double precision."""
    unit = conv.unit.double() if isinstance(conv, UnitConv) else torch.ones(conv.out_channels, dtype=torch.float64)
    own = conv.weight[:, :, 0, 0].double() * unit[:, None]
    assert conv.bias is not None
    constant = weight @ (conv.bias.double() * unit)
    return conv_of(weight @ own, constant if bias is None else constant + bias)
