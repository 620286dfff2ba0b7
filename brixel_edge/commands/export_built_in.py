"""What brixel-export makes when no backbone is named: the built-in model, with its packaged weights."""

from __future__ import annotations

import argparse

from brixel_edge.errors import SpecError
from brixel_edge.model.adapters import FULL_FRAME_SCALE
from brixel_edge.model.backbones import BUILT_IN, BUILT_IN_VIEW, DEFAULT_BACKBONE

RANDOM = "random"
VIEW_PX = (128, 176)  # what its adapters are trained and scored at
FRAME_PX = (VIEW_PX[0] * FULL_FRAME_SCALE, VIEW_PX[1] * FULL_FRAME_SCALE)


def fill_in_built_in(arguments: argparse.Namespace) -> None:
    """Put in what the built-in model is, where no backbone is named; what was given stays.

    Raises:
        SpecError: weights of a backbone that is not named.
    """
    if arguments.backbone is not None:
        arguments.adapter = arguments.adapter or "brixel"
        return
    own = (None, BUILT_IN, BUILT_IN_VIEW)
    if arguments.backbone_weights not in own[:2] or arguments.adapter_weights not in own:
        raise SpecError("weights without a backbone: name it with --backbone NAME, or --backbone dinov3")
    arguments.backbone, arguments.backbone_weights = DEFAULT_BACKBONE, BUILT_IN
    arguments.adapter = arguments.adapter or "conv"
    if arguments.adapter == "conv" and arguments.adapter_weights is None:
        is_new = arguments.conv_width is not None
        arguments.adapter_weights = RANDOM if is_new else BUILT_IN
        arguments.full_frame = arguments.full_frame and is_new  # the packaged one reads it anyway
    if arguments.adapter == "brixel":
        arguments.adapter_weights = arguments.adapter_weights or RANDOM
    elif not (arguments.size or arguments.sizes):
        size = FRAME_PX if arguments.adapter_weights == BUILT_IN else VIEW_PX
        arguments.size = "x".join(map(str, size))
