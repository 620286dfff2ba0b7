"""Which part of a photograph is shown, at which size.

The teacher's view is four times the student's on each side and is cut from the photograph; the student's view is the
teacher's, made smaller. A photograph is never padded or stretched, and never enlarged by more than the run allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from brixel_edge.errors import SpecError
from brixel_edge.training.photographs import Box, UnusablePhotograph

Crops = Literal["centre", "random"]
Size = tuple[int, int]
"""(height, width) [px]."""

SCALE = 4
TOO_SMALL = "too small for the teacher's view"
# Sizes of views and boxes are compared with this tolerance [px].
_SLACK_PX = 1e-6


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Sizes and augmentation of a run.

    Attributes:
        sizes: the student's views, (height, width) [px] each; a run may mix several.
        crops: `centre`, the largest part with the view's shape (the authors' choice), or `random`, any place and any
            size between that and the view's own pixels.
        flips: mirror half of the photographs left to right.
        max_upscale: how much a photograph may be enlarged to fill the teacher's view; 1 leaves smaller ones out.
    """

    sizes: tuple[Size, ...] = ((256, 256),)
    crops: Crops = "centre"
    flips: bool = False
    max_upscale: float = 1.0

    def __post_init__(self) -> None:
        if not self.sizes or len(set(self.sizes)) != len(self.sizes) or min(min(size) for size in self.sizes) <= 0:
            raise SpecError(f"student sizes {self.sizes} must be positive and different; for instance 256x256,192x320")
        if self.crops not in get_args(Crops):
            raise SpecError(f"crops {self.crops!r} is not one of {', '.join(get_args(Crops))}")
        if not 1 <= self.max_upscale <= 4:
            raise SpecError(f"max_upscale {self.max_upscale} is not within 1 (never enlarge) to 4")

    @property
    def is_random(self) -> bool:
        """Whether a photograph looks different from epoch to epoch."""
        return self.flips or self.crops == "random"


def teacher_size(size: Size) -> Size:
    """(height, width) [px] of the teacher's view for a student's."""
    return SCALE * size[0], SCALE * size[1]


def fits(height: int, width: int, size: Size, max_upscale: float) -> bool:
    """Whether a photograph of height x width [px] fills the teacher's view of a student size."""
    needed_height, needed_width = teacher_size(size)
    slack = max_upscale * (1 + _SLACK_PX)
    return height * slack >= needed_height and width * slack >= needed_width


def crop_box(
    height: int, width: int, size: Size, settings: ViewSettings, random: np.random.Generator | None = None
) -> Box:
    """The part of a photograph that fills the teacher's view, with the view's shape.

    Args:
        height: of the photograph [px].
        width: of the photograph [px].
        size: the student's (height, width) [px].
        settings: of the run.
        random: for random crops; None takes the largest centred part.

    Raises:
        UnusablePhotograph: smaller than the view allows.
    """
    if not fits(height, width, size, settings.max_upscale):
        raise UnusablePhotograph(TOO_SMALL)
    view_height, view_width = teacher_size(size)
    # Photograph pixels per view pixel: at most what still fits, at least 1 (or what fits, where it is enlarged).
    largest = min(height / view_height, width / view_width)
    ratio, x, y = largest, 0.5, 0.5
    if random is not None and settings.crops == "random":
        smallest = min(1.0, largest)
        ratio = smallest * (largest / smallest) ** random.random()
        x, y = random.random(), random.random()
    box_height, box_width = min(ratio * view_height, height), min(ratio * view_width, width)
    left, top = x * (width - box_width), y * (height - box_height)
    return left, top, min(left + box_width, width), min(top + box_height, height)
