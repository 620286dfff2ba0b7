"""A picture of how training goes: photograph, baseline, student and teacher side by side, in the same colours."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from brixel_edge.image.captions import caption_strip
from brixel_edge.image.colours import fixed_colours
from brixel_edge.image.resize import resize_image
from brixel_edge.training.validation import Example

COLUMNS = ("photograph", "bilinear baseline", "student", "teacher")
ROW_PX = 256
GAP_PX = 4


def panel_from_examples(examples: Sequence[Example]) -> Image.Image:
    """One row a photograph, under the names of the columns."""
    colours = fixed_colours([example.teacher.transpose(1, 2, 0) for example in examples])
    widths = [max(1, ROW_PX * example.image.shape[1] // example.image.shape[0]) for example in examples]
    column_px = max(widths) + GAP_PX
    rows = [np.hstack([caption_strip(title, column_px) for title in COLUMNS])]
    for example, width in zip(examples, widths, strict=True):
        tiles = [resize_image(example.image, ROW_PX, width)]
        for features in (example.baseline, example.student, example.teacher):
            # Cells stay visible as cells.
            shown = cv2.resize(colours(features.transpose(1, 2, 0)), (width, ROW_PX), interpolation=cv2.INTER_NEAREST)
            tiles.append(np.asarray(shown, np.uint8))
        gaps = ((0, GAP_PX), (0, column_px - width), (0, 0))
        rows.append(np.hstack([np.pad(tile, gaps, constant_values=255) for tile in tiles]))
    return Image.fromarray(np.vstack(rows))
