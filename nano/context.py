"""What surrounds a token: averages over windows whose size is a part of the picture, as attention with RoPE sees it.

DINOv3 gives RoPE coordinates from -1 to 1 over the picture, on each axis, so a window of attention is a part of the
picture too, however many tokens that is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A Gaussian window.

    Attributes:
        spread: standard deviation, as a part of the picture's side; None for the whole picture.
        above: how far over the token its middle lies, as a part of the picture's height.
    """

    spread: float | None
    above: float = 0.0


# One head of attention each.
WINDOWS = (Window(0.05), Window(0.1), Window(0.2), Window(0.2, 0.3), Window(0.2, -0.3), Window(None))


def _kernel(length: int, spread: float | None, shift: float) -> Tensor:
    """(length, length), rows sum to 1: row is the token, column what it sees."""
    place = (torch.arange(length) + 0.5) / length
    if spread is None:
        return torch.full((length, length), 1 / length)
    weight = -0.5 * ((place[None] - place[:, None] + shift) / spread).square()
    return weight.softmax(1)


def window_mean(maps: Tensor, window: Window) -> Tensor:
    """(B, C, h, w) averaged over the window around each place; the same shape."""
    rows = _kernel(maps.shape[2], window.spread, window.above)
    columns = _kernel(maps.shape[3], window.spread, 0.0)
    return torch.einsum("yi,bcij,xj->bcyx", rows, maps, columns)
