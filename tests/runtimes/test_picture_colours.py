"""Red is red in what is shown and saved: pictures are BGR, the principal components red, green and blue."""

from __future__ import annotations

import numpy as np

from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.pictures.painter import Painter


def test_the_strongest_component_is_painted_red_and_the_third_blue():
    amounts = np.random.default_rng(0).normal(size=(24, 24, 3)) * (9.0, 3.0, 1.0)
    values = np.zeros((24, 24, 8), np.float32)
    values[..., :3] = amounts
    features = FeatureMap(
        values=values, stride_px=(10.0, 10.0), offset_px=(0.0, 0.0), frame_size=(240, 240), t_capture_s=0.0,
        frame_bgr=np.zeros((240, 240, 3), np.uint8),
    )  # fmt: skip
    picture = Painter()(features, "facts")
    side = picture.shape[1] // 2
    cells = (np.arange(24) + 0.5) * side / 24
    shown = picture[:side, side:][cells.astype(int)][:, cells.astype(int)].astype(float)
    likeness = [
        [abs(np.corrcoef(shown[..., channel].ravel(), amounts[..., part].ravel())[0, 1]) for part in range(3)]
        for channel in range(3)
    ]
    assert [int(np.argmax(row)) for row in likeness] == [2, 1, 0]
