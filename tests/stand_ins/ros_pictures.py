"""Images as a camera publishes them: a red square on blue, and the tiny model whose cells are mean colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_model

from brixel_edge.runtimes.ros.wire.messages import Header, Image, Time

HEIGHT, WIDTH = 32, 48  # the graph's own, so that nothing is resized
BLUE, RED = (200, 10, 10), (10, 10, 200)
# Of the map, 8 x 12 cells of 4 px: rows 2..3, columns 6..8 are red.
ROWS, COLUMNS = slice(2, 4), slice(6, 9)


def red_square(stamp_ns: int, encoding: str = "bgr8", frame_id: str = "camera_optical") -> Image:
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:] = BLUE
    pixels[8:16, 24:36] = RED
    if encoding == "rgb8":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    header = Header(stamp=Time.from_ns(stamp_ns), frame_id=frame_id)
    return Image(header=header, height=HEIGHT, width=WIDTH, encoding=encoding, step=3 * WIDTH, data=pixels.reshape(-1))


def tiny_graph(path: Path) -> Path:
    """Without the constant channel, so that cosines are those of colours."""
    return tiny_model.save(path, bias=0.0)


def cosine_of_colours() -> float:
    blue, red = np.array(BLUE, float), np.array(RED, float)
    return float(blue @ red / np.linalg.norm(blue) / np.linalg.norm(red))
