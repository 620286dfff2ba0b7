"""Deformable attention over one feature map, in plain torch with sizes known when built.

Each query looks at a few points around its own place in the ViT's map, at offsets and with weights that it predicts
(Deformable DETR, arXiv 2010.04159; BRIXEL uses 16 heads, 4 points, one level). Sampling is bilinear, zero outside,
with cell centres at half-integers. It has several lowerings, equal in exact arithmetic, because GridSample is the
operator that TensorRT most often gets silently wrong.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from brixel_edge.model.spec import SamplerKind


def reference_points(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Centres of a grid's cells as (x, y) in [-1, 1] over the map, (height * width, 2), row-major."""
    y = (2 * torch.arange(height, dtype=torch.float32, device=device) + 1) / height - 1
    x = (2 * torch.arange(width, dtype=torch.float32, device=device) + 1) / width - 1
    return torch.stack((x[None, :].expand(height, width), y[:, None].expand(height, width)), dim=-1).reshape(-1, 2)


def sample_with_gridsample(value: Tensor, locations: Tensor) -> Tensor:
    """Bilinear samples by torch's grid_sample (ONNX GridSample).

    Args:
        value: (N, C, h, w).
        locations: (N, P, Q, 2), (x, y) in [-1, 1] over the map.

    Returns:
        (N, C, P, Q), zeros where a neighbour lies outside.
    """
    return functional.grid_sample(value, locations, mode="bilinear", padding_mode="zeros", align_corners=False)


def sample_with_gather(value: Tensor, locations: Tensor) -> Tensor:
    """The same samples by four gathers from a zero-padded map; no GridSample in the graph.

    Args:
        value: (N, C, h, w).
        locations: (N, P, Q, 2), (x, y) in [-1, 1] over the map.

    Returns:
        (N, C, P, Q), zeros where a neighbour lies outside.
    """
    count, channels, height, width = value.shape
    points, queries = locations.shape[1], locations.shape[2]
    # One ring of zeros takes every outside neighbour; clamping keeps far points inside that ring.
    flat = functional.pad(value, (1, 1, 1, 1)).reshape(count, channels, (height + 2) * (width + 2))
    x = (locations[..., 0] * (width / 2) + (width - 1) / 2).clamp(-1.0, float(width))
    y = (locations[..., 1] * (height / 2) + (height - 1) / 2).clamp(-1.0, float(height))
    x0, y0 = x.floor().clamp(max=width - 1), y.floor().clamp(max=height - 1)
    fx, fy = x - x0, y - y0
    corner = ((y0 + 1) * (width + 2) + (x0 + 1)).to(torch.int64).reshape(count, 1, points * queries)

    def neighbour(step: int, weight: Tensor) -> Tensor:
        index = (corner + step).expand(count, channels, points * queries)
        return flat.gather(2, index) * weight.reshape(count, 1, points * queries)

    row = width + 2
    samples = (
        neighbour(0, (1 - fx) * (1 - fy))
        + neighbour(1, fx * (1 - fy))
        + neighbour(row, (1 - fx) * fy)
        + neighbour(row + 1, fx * fy)
    )
    return samples.reshape(count, channels, points, queries)


SAMPLERS = {
    "gridsample": sample_with_gridsample,
    "gather": sample_with_gather,
    "materialised": sample_with_gridsample,
}


def _half_map_of_a_cell(height: int, width: int, device: torch.device) -> Tensor:
    """What one cell is where a map spans [-1, 1]: (2 / width, 2 / height)."""
    return torch.tensor((2 / width, 2 / height), dtype=torch.float32, device=device)


class DeformableAttention(nn.Module):
    """Queries read a single feature map at predicted points.

    Args:
        dim: D, width of queries and of the map.
        heads: attention heads.
        points: sampling points of a head.
        value_ratio: width of the values over D.
    """

    def __init__(self, dim: int, heads: int = 16, points: int = 4, value_ratio: float = 0.5) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.sampler: SamplerKind = "gridsample"
        self.has_folded_scale = False
        value_dim = int(dim * value_ratio)
        self.sampling_offsets = nn.Linear(dim, heads * points * 2)
        self.attention_weights = nn.Linear(dim, heads * points)
        self.value_proj = nn.Linear(dim, value_dim)
        self.output_proj = nn.Linear(value_dim, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Deformable DETR's start: heads look into different directions, point k at k cells, all weighed alike."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2.0 * math.pi / self.heads)
        directions = torch.stack((angles.cos(), angles.sin()), -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((directions[:, None] * steps[None, :, None]).reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def fold_offset_scale(self, height: int, width: int) -> None:
        """For one map size: let the offsets' Linear give them in the units of the map, not in cells. Exact."""
        scale = _half_map_of_a_cell(height, width, self.sampling_offsets.weight.device)
        scale = scale.repeat(self.heads * self.points)
        with torch.no_grad():
            self.sampling_offsets.weight.mul_(scale[:, None])
            self.sampling_offsets.bias.mul_(scale)
        self.has_folded_scale = True

    def forward(self, query: Tensor, references: Tensor, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Read `tokens` for every query.

        Args:
            query: (B, Q, D).
            references: (Q, 2), the queries' own places, (x, y) in [-1, 1].
            tokens: (B, h * w, D), row-major over `grid`.
            grid: (h, w).

        Returns:
            (B, Q, D).
        """
        batch, queries, _ = query.shape
        heads, points = self.heads, self.points
        height, width = grid
        value = self.value_proj(tokens).transpose(1, 2).reshape(batch * heads, -1, height, width)
        # Where to look is kept in fp32 under autocast: in half precision neighbouring places cannot be told apart.
        offsets = self.sampling_offsets(query).reshape(batch, queries, heads, points, 2).float()
        if not self.has_folded_scale:
            offsets = offsets * _half_map_of_a_cell(height, width, query.device)
        # Queries innermost: CPUs add, weigh and normalise whole rows of them, where four points a query fill no vector.
        locations = references + offsets.permute(0, 2, 3, 1, 4).reshape(batch * heads, points, queries, 2)
        weights = self.attention_weights(query).transpose(1, 2).reshape(batch * heads, points, queries).softmax(1)
        samples = SAMPLERS[self.sampler](value.float(), locations).flatten(2)
        weighted = samples * weights.reshape(batch * heads, 1, points * queries)
        merged = weighted.reshape(-1, points, queries).sum(1).reshape(batch, -1, queries).transpose(1, 2)
        return self.output_proj(merged.to(query.dtype))
