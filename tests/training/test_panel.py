"""The picture of an evaluation: which column shows what."""

import numpy as np

from brixel_edge.training.panel import COLUMNS, GAP_PX, ROW_PX, panel_from_examples
from brixel_edge.training.validation import Example

QUADRANTS = {"photograph": (0, 0), "bilinear baseline": (0, 1), "student": (1, 0), "teacher": (1, 1)}


def marked(name, shape):
    """Zero but for one quadrant, another one for each column."""
    x = np.zeros(shape, np.float32)
    row, column = QUADRANTS[name]
    x[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = np.arange(1, shape[0] + 1)[:, None, None]
    return x


def test_every_column_shows_what_its_title_says():
    image = (marked("photograph", (3, 8, 8)).transpose(1, 2, 0) * 80).astype(np.uint8)
    maps = {name: marked(name, (5, 8, 8)) for name in COLUMNS[1:]}
    example = Example(image=image, baseline=maps["bilinear baseline"], student=maps["student"], teacher=maps["teacher"])
    panel = np.asarray(panel_from_examples([example])).astype(int)
    top = len(panel) - ROW_PX - GAP_PX
    for number, name in enumerate(COLUMNS):
        left = number * (ROW_PX + GAP_PX)
        tile = panel[top : top + ROW_PX, left : left + ROW_PX]
        centres = {place: tile[64 + 128 * place[0], 64 + 128 * place[1]] for place in QUADRANTS.values()}
        others = [colour for place, colour in centres.items() if place != QUADRANTS[name]]
        assert all(np.array_equal(colour, others[0]) for colour in others), name
        assert np.abs(centres[QUADRANTS[name]] - others[0]).max() > 50, name
