"""The adapters by kind: what is chosen of them, and the image sizes that they take."""

from __future__ import annotations

from dataclasses import dataclass

from brixel_edge.errors import SpecError
from brixel_edge.model.spec import AdapterKind

FULL_FRAME_SCALE = 4
DEFAULT_WIDTH = 96


@dataclass(frozen=True, kw_only=True)
class ConvSettings:
    """What there is to choose of a conv adapter.

    Attributes:
        width: channels at 1/8 and 1/4; 64 to 128 are sensible, 96 keeps a ViT-S within 2.5 GFLOP.
        full_frame: read the frame at four times the backbone's view on each side.
        texture_stem: and see it as a backbone with a texture stem would, instead of by cosines.
    """

    width: int = DEFAULT_WIDTH
    full_frame: bool = False
    texture_stem: bool = False

    def __post_init__(self) -> None:
        if type(self.width) is not int or self.width <= 0 or self.width % 16:
            raise SpecError(f"adapter width {self.width} is not a positive multiple of 16; 64, 96 and 128 are usual")
        if type(self.full_frame) is not bool:
            raise SpecError(f"full_frame {self.full_frame!r} is not true or false")
        if type(self.texture_stem) is not bool or (self.texture_stem and not self.full_frame):
            raise SpecError(f"texture_stem {self.texture_stem!r} is not true or false, or not of a full frame")


def size_step_px(adapter: AdapterKind, patch_px: int, view_scale: int = 1) -> int:
    """What height and width of an image are multiples of.

    The paper's adapter halves the token grid, so that it needs an even number of tokens a side; a full frame is
    `view_scale` times the backbone's view.
    """
    return patch_px * view_scale * (2 if adapter == "brixel" else 1)


def check_multiple(height: int, width: int, step_px: int) -> None:
    """Refuse an image size that does not fit, naming the neighbours that do.

    Raises:
        SpecError: height or width is not a positive multiple of `step_px`.
    """
    for name, value in (("height", height), ("width", width)):
        if value % step_px or value <= 0:
            below, above = max(value // step_px, 1) * step_px, (value // step_px + 1) * step_px
            raise SpecError(f"{name} {value} is not a multiple of {step_px}; use {below} or {above}")
