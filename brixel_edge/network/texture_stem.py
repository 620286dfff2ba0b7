"""A patch embedding with a sense of texture: DINOv3's one, plus small filters whose responses are averaged.

One convolution of 16 px is bound to where in the patch a thing is, and a ViT of few blocks has to learn not to care.
The mean response of small rectified filters does not depend on it. Filters see their surroundings' contrast divided
out, as descriptors by hand do (Coates & Ng, "An analysis of single-layer networks in unsupervised feature learning");
a few see it as it is. Tokens, registers, RoPE and blocks behind it are DINOv3's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FILTERS = 96  # at each of two scales
EDGES = 16  # see contrast as it is
FILTER_PX = 6
PATCH_PX = 16
QUARTER_PX = PATCH_PX // 2  # responses are averaged over quarters of a patch
CHANNELS = 2 * FILTERS + EDGES + 6
FLOOR = 0.02**2  # of the variance of a filter's surroundings
ROOT_FLOOR = 1e-4


class TextureStem(nn.Module):
    """Stands where timm's patch embedding has its one convolution.

    Args:
        width: D, channels of a token.
        mean: that was taken from the picture's colours in [0, 1].
        std: by which they were divided.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)
        self.patch = nn.Conv2d(3, width, PATCH_PX, stride=PATCH_PX)
        self.filters = nn.Conv2d(3, FILTERS, FILTER_PX, stride=2, padding=2, bias=False)
        self.threshold = nn.Parameter(torch.zeros(2, FILTERS))
        self.edges = nn.Conv2d(3, EDGES, FILTER_PX, stride=2, padding=2)
        self.mix = nn.Conv2d(CHANNELS, width, 2, stride=2, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, H / 16, W / 16)."""
        return self.patch(image) + self.mix(self.texture(image))

    def texture(self, image: Tensor) -> Tensor:
        """Roots of mean responses, deviation and mean of colours, in quarters: (B, CHANNELS, H / 8, W / 8)."""
        image = image * self.std + self.mean  # contrast is that of the picture, alike in all colours
        half = functional.avg_pool2d(image, 2)
        fine = functional.avg_pool2d(self._responses(image, 0), QUARTER_PX // 2)
        coarse = functional.avg_pool2d(self._responses(half, 1), QUARTER_PX // 4)
        edges = functional.avg_pool2d(functional.relu(self.edges(image)), QUARTER_PX // 2)
        mean = functional.avg_pool2d(image, QUARTER_PX)
        spread = functional.relu(functional.avg_pool2d(image * image, QUARTER_PX) - mean * mean)
        roots = torch.sqrt(torch.cat((fine, coarse, edges, spread), 1) + ROOT_FLOOR)
        return torch.cat((roots, mean), 1)

    def _responses(self, image: Tensor, scale: int) -> Tensor:
        """Rectified, of contrast-normalised surroundings, at half the image's size."""
        grey, square = _mean_of_colours(image), _mean_of_colours(image * image)
        mean = functional.avg_pool2d(grey, FILTER_PX, stride=2, padding=2, count_include_pad=False)
        square = functional.avg_pool2d(square, FILTER_PX, stride=2, padding=2, count_include_pad=False)
        contrast = torch.sqrt(functional.relu(square - mean * mean) + FLOOR)
        return functional.relu(self.filters(image) / contrast - self.threshold[scale].reshape(1, -1, 1, 1))


def _mean_of_colours(image: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W). Sums of slices: a ReduceMean beside a root is what a LayerNorm taken apart has."""
    red, green, blue = image.split(1, 1)
    return (red + green + blue) / 3
