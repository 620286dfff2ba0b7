"""The paper's head: three shallow residual blocks at 64 channels, and the ViT's own map as the base.

Written from the description in arXiv 2511.05168. Like the authors' code, the base map is first halved and then
enlarged eight times, although the paper does not say so: released adapters were trained that way.
"""

from __future__ import annotations

from torch import Tensor, nn

from brixel_edge.network.adapter import NORM_EPS, resize_map

HEAD_WIDTH = 64
BLOCKS = 3
MIX_GROUPS = 4


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        # As tokens: OpenVINO moves a map to them and back for nothing, but copies it for a permutation of four axes.
        return self.ln(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class ResidualBlock(nn.Module):
    """x + pointwise(GELU(pointwise(GELU(depthwise(norm(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            ChannelNorm(channels),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return x + self.block(x)


class BrixelHead(nn.Module):
    """Adapter map and the last ViT map -> dense features (B, D, 4h, 4w)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.align_in = nn.Conv2d(dim, HEAD_WIDTH, 1)
        self.trunk = nn.Sequential(*(ResidualBlock(HEAD_WIDTH) for _ in range(BLOCKS)))
        self.mix = nn.Conv2d(HEAD_WIDTH, HEAD_WIDTH, 3, padding=1, groups=MIX_GROUPS)
        self.head_norm = ChannelNorm(HEAD_WIDTH)
        self.out_conv = nn.Conv2d(HEAD_WIDTH, dim, 1)

    def forward(self, refined: Tensor, base: Tensor) -> Tensor:
        """Fuse.

        Args:
            refined: (B, D, 4h, 4w), from the adapter.
            base: (B, D, h, w), the last tapped ViT map; h and w even.

        Returns:
            (B, D, 4h, 4w).
        """
        height, width = base.shape[-2:]
        x = self.align_in(refined)
        # Each block has a residual of its own, and the trunk one around all three (found against the authors' outputs).
        x = self.mix(x + self.trunk(x))
        halved = resize_map(base, height // 2, width // 2)
        return self.out_conv(self.head_norm(x)) + resize_map(halved, 4 * height, 4 * width)
