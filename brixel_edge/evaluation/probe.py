"""The light probes: what is trained on frozen features.

`linear` is one matrix on each cell. `light` adds a hidden layer and a 3 x 3 depthwise convolution, for depth and
normals. Features are standardised inside, channel by channel, with constants that fold into the matrix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from brixel_edge.evaluation.samples import Kind
from brixel_edge.machine.files import replacing
from brixel_edge.model.head import LOG_DEPTH_LIMITS

HIDDEN = 128
PROBE_KEY = "brixel_probe"
# Rows that are enlarged at a time hold at most so many numbers: 150 classes of a 4-megapixel picture are 2.4 GB.
STRIP_NUMBERS = 32 << 20


class Probe(nn.Module):
    """(1, D, h, w) features -> (1, K, h, w): logits, log depth, or a vector along the normal.

    Args:
        dim: D.
        outputs: K.
        kind: what is predicted.
        is_light: with a hidden layer.
        seed: of the weights.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, outputs: int, kind: Kind, *, is_light: bool, seed: int) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if is_light:
                self.hidden: nn.Module = nn.Sequential(
                    nn.Conv2d(dim, HIDDEN, 1),
                    nn.GELU(),
                    nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1, groups=HIDDEN),
                    nn.GELU(),
                )
            else:
                self.hidden = nn.Identity()
            self.out = nn.Conv2d(HIDDEN if is_light else dim, outputs, 1)
            nn.init.normal_(self.out.weight, std=0.01)
            assert self.out.bias is not None
            nn.init.zeros_(self.out.bias)

    @property
    def is_linear(self) -> bool:
        """Whether it can be folded into a linear layer before it."""
        return isinstance(self.hidden, nn.Identity)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, K, h, w)."""
        first = self.hidden[0] if isinstance(self.hidden, nn.Sequential) else self.out
        values = self._on_plain_features(cast(nn.Conv2d, first), features)
        return values if self.is_linear else self.out(cast(nn.Sequential, self.hidden)[1:](values))

    def _on_plain_features(self, first: nn.Conv2d, features: Tensor) -> Tensor:
        """A 1 x 1 convolution of standardised features: the constants go into its weights, which are few."""
        weight = first.weight[:, :, 0, 0] * self.scale
        assert first.bias is not None
        return functional.conv2d(features, weight[:, :, None, None], first.bias - weight @ self.mean)

    @torch.no_grad()
    def matrix(self) -> tuple[Tensor, Tensor]:
        """(K, D) and (K,) of a linear probe on features as they are, standardisation folded in, in float64."""
        weight = self.out.weight.double()[:, :, 0, 0] * self.scale.double()
        assert self.out.bias is not None
        return weight, self.out.bias.double() - weight @ self.mean.double()


def points_of(logits: Tensor, points: Tensor) -> Tensor:
    """Values of a map at pixels, bilinearly: exactly those of the map enlarged to the whole picture.

    Args:
        logits: (1, K, h, w).
        points: (P, 2) as `grid_sample` counts them, x before y, -1 to 1 from edge to edge.

    Returns:
        (P, K).
    """
    sampled = functional.grid_sample(
        logits, points[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[0, :, 0].T


def normalised_points(rows: NDArray[np.integer], columns: NDArray[np.integer], size: tuple[int, int]) -> Tensor:
    """(P, 2) for `points_of`, of pixels of a picture of (height, width)."""
    y = (2 * rows.astype(np.float64) + 1) / size[0] - 1
    x = (2 * columns.astype(np.float64) + 1) / size[1] - 1
    return torch.from_numpy(np.stack((x, y), axis=-1).astype(np.float32))


def enlarged_strips(values: Tensor, size: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """A map enlarged bilinearly (half-pixel) to a picture's size, some rows at a time.

    Args:
        values: (K, h, w).
        size: (height, width) [px].

    Yields:
        first row and (K, rows, width).
    """
    height, width = size
    wide = functional.interpolate(values[None], size=(values.shape[1], width), mode="bilinear", align_corners=False)[0]
    step = max(1, STRIP_NUMBERS // (values.shape[0] * width))
    at = ((torch.arange(height, device=values.device) + 0.5) * (values.shape[1] / height) - 0.5).clamp(min=0)
    above = at.floor().long().clamp(max=values.shape[1] - 1)
    below = (above + 1).clamp(max=values.shape[1] - 1)
    part = (at - above).to(values.dtype)
    for first in range(0, height, step):
        rows = slice(first, first + step)
        share = part[rows].view(1, -1, 1)
        yield first, wide[:, above[rows]] * (1 - share) + wide[:, below[rows]] * share


@torch.no_grad()
def prediction(probe: Probe, seen: Tensor, size: tuple[int, int], *, mixes_probabilities: bool = False) -> NDArray:
    """What a probe says of a picture, at a label's size.

    Args:
        probe: trained.
        seen: (1, D, h, w) features.
        size: (height, width) [px].
        mixes_probabilities: of classes: enlarge probabilities rather than logits.

    Returns:
        (H, W) uint8 classes, (H, W) float32 depth [m], or (H, W, 3) float32 vectors along the normals.
    """
    values = probe(seen)[0]
    if mixes_probabilities:
        values = values.softmax(0)
    strips = [decoded(probe.kind, strip) for _, strip in enlarged_strips(values, size)]
    return torch.cat(strips).cpu().numpy()


def decoded(kind: Kind, values: Tensor) -> Tensor:
    """(K, rows, width) of a probe as classes, depth or vectors (rows, width, 3)."""
    if kind == "segmentation":
        return values.argmax(0).to(torch.uint8)
    if kind == "depth":
        return values[0].clamp(*LOG_DEPTH_LIMITS).exp()
    return values.permute(1, 2, 0)


def loss_of(kind: Kind, given: Tensor, true: Tensor, depth_loss: str) -> tuple[Tensor, float]:
    """Loss of a picture's pixels as a sum and the weight that the sums of a batch are divided by.

    Args:
        kind: what is predicted.
        given: (P, K) of the probe.
        true: (P,) classes or depth [m], or (P, 3) normals.
        depth_loss: `log` or `silog`.
    """
    if kind == "segmentation":
        return functional.cross_entropy(given, true, reduction="sum"), float(len(true))
    if kind == "normals":
        return (1 - functional.cosine_similarity(given, true, dim=1)).sum(), float(len(true))
    difference = given[:, 0] - true.log()
    if depth_loss == "log":
        return difference.abs().sum(), float(len(true))
    # Eigen's scale-tolerant loss with the authors' 0.15, a mean over pictures.
    return (difference**2).mean() - 0.15 * difference.mean() ** 2, 1.0


def save_probe(path: Path, probe: Probe, facts: dict[str, Any]) -> None:
    """Write a probe as safetensors; a linear one as the matrix on plain features, ready to be fused.

    Args:
        path: where to.
        probe: trained.
        facts: kept as JSON inside the file, for instance classes and scores.
    """
    if probe.is_linear:
        weight, bias = (value.float().cpu().contiguous() for value in probe.matrix())
        state = {"weight": weight, "bias": bias}
    else:
        state = {key: value.detach().cpu().contiguous() for key, value in probe.state_dict().items()}
    record = {"kind": probe.kind, "is_linear": probe.is_linear, **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={PROBE_KEY: json.dumps(record, sort_keys=True, allow_nan=False)})


def cosine_rate(step: int, total: int, first: float) -> float:
    """The learning rate of a step counted from 0, falling to 0 behind the last."""
    return first * 0.5 * (1 + math.cos(math.pi * step / total))
