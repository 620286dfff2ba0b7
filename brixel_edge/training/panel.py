"""A picture of how training goes: photograph, baseline, student and teacher side by side, in the same colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from brixel_edge.training.validation import Example

COLUMNS = ("photograph", "bilinear baseline", "student", "teacher")
ROW_PX = 256
GAP_PX = 4
HEADER_PX = 18


def teacher_colours(maps: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The projection on three colours that shows most of the teacher's maps.

    Args:
        maps: (D, h, w) each.

    Returns:
        (D + 1, 3) affine projection, the last row its offset; (2, 3) the values that become black and full colour.
    """
    tokens = np.concatenate([x.reshape(len(x), -1).T for x in maps]).astype(np.float64)
    mean = tokens.mean(0)
    directions = np.linalg.eigh(np.cov(tokens.T))[1][:, ::-1][:, :3]
    # An eigenvector's sign is arbitrary: fixed, so that colours do not flip from one evaluation to the next.
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), np.arange(3)])
    projected = (tokens - mean) @ directions
    return np.vstack((directions, -mean @ directions)), np.percentile(projected, (1, 99), axis=0)


def coloured(
    features: NDArray[np.float32], projection: NDArray[np.float64], limits: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """(D, h, w) -> (h, w, 3) uint8."""
    values = features.reshape(len(features), -1).T @ projection[:-1] + projection[-1]
    scaled = (values - limits[0]) / np.maximum(limits[1] - limits[0], 1e-12)
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8).reshape(*features.shape[1:], 3)


def panel_from_examples(examples: Sequence[Example]) -> Image.Image:
    """One row a photograph, under the names of the columns."""
    projection, limits = teacher_colours([example.teacher for example in examples])
    rows = []
    for example in examples:
        maps = (example.baseline, example.student, example.teacher)
        pixels = [example.image, *(coloured(x, projection, limits) for x in maps)]
        height, width = example.image.shape[:2]
        size = (max(1, ROW_PX * width // height), ROW_PX)
        kinds = (Image.Resampling.BICUBIC, *(Image.Resampling.NEAREST,) * 3)  # cells stay visible as cells
        rows.append([Image.fromarray(x).resize(size, kind) for x, kind in zip(pixels, kinds, strict=True)])
    column_px = max(tile.width for row in rows for tile in row) + GAP_PX
    panel = Image.new("RGB", (len(COLUMNS) * column_px, HEADER_PX + len(rows) * (ROW_PX + GAP_PX)), "white")
    draw = ImageDraw.Draw(panel)
    for column, title in enumerate(COLUMNS):
        draw.text((column * column_px + GAP_PX, 3), title, fill="black")
        for number, row in enumerate(rows):
            panel.paste(row[column], (column * column_px, HEADER_PX + number * (ROW_PX + GAP_PX)))
    return panel
