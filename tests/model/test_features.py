"""FeatureMap: which cell lies under a pixel, for all fits, and the cosine map."""

from __future__ import annotations

import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.model.features import FeatureMap


def numbered(grid=(4, 6), stride=(10.0, 20.0), offset=(0.0, 0.0), frame=(40, 120), dtype=np.float32):
    """A map whose feature is (row, column, 1)."""
    rows, columns = np.indices(grid)
    values = np.stack([rows, columns, np.ones(grid)], axis=-1).astype(dtype)
    return FeatureMap(values=values, stride_px=stride, offset_px=offset, frame_size=frame, t_capture_s=1.5)


@pytest.mark.parametrize(
    ("x", "y", "cell"),
    [(0, 0, (0, 0)), (19, 9, (0, 0)), (20, 10, (1, 1)), (119, 39, (3, 5)), (59.4, 0, (0, 2)), (59.6, 0, (0, 3))],
)
def test_the_cell_under_a_pixel(x, y, cell):
    features = numbered()
    assert features.cell(x=x, y=y) == cell
    assert tuple(features.at(x=x, y=y)[:2]) == cell


def test_a_crop_counts_from_its_own_corner():
    features = numbered(stride=(10.0, 10.0), offset=(0.0, 30.0), frame=(40, 120))
    assert features.cell(x=30, y=0) == (0, 0)
    assert features.cell(x=89, y=39) == (3, 5)
    for x in (29, 90):
        with pytest.raises(SpecError, match=rf"pixel x={x}, y=5 has no features; x must be 30 to 89 and y 0 to 39"):
            features.cell(x=x, y=5)


def test_a_padded_frame_has_cells_beyond_its_edge():
    features = numbered(stride=(30.0, 20.0), offset=(-40.0, 0.0), frame=(40, 120))
    assert features.cell(x=0, y=0) == (1, 0)
    assert features.cell(x=119, y=39) == (2, 5)
    with pytest.raises(SpecError, match="x must be 0 to 119 and y 0 to 39"):
        features.cell(x=0, y=-1)


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -1), (120, 0), (0, 40), (float("nan"), 0), (float("inf"), 0)])
def test_outside_of_the_frame_is_refused_with_the_range(x, y):
    with pytest.raises(SpecError, match="x must be 0 to 119 and y 0 to 39"):
        numbered().at(x=x, y=y)


def test_at_is_a_copy():
    features = numbered()
    features.at(x=0, y=0)[:] = 7
    assert features.values[0, 0, 0] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_similarity_is_the_cosine(dtype):
    rng = np.random.default_rng(0)
    channels_first = rng.normal(size=(5, 3, 4)).astype(dtype)
    values = channels_first.transpose(1, 2, 0)  # as runtimes give it
    features = FeatureMap(values=values, stride_px=(1.0, 1.0), offset_px=(0.0, 0.0), frame_size=(3, 4), t_capture_s=0.0)
    query = rng.normal(size=5)
    expected = [
        [np.dot(values[i, j], query) / np.linalg.norm(values[i, j]) / np.linalg.norm(query) for j in range(4)]
        for i in range(3)
    ]
    assert features.similarity(query) == pytest.approx(np.array(expected), abs=2e-3 if dtype == np.float16 else 1e-5)
    own = features.similarity(features.at(x=2, y=1))
    assert own[1, 2] == pytest.approx(1, abs=1e-6)
    assert own.shape == (3, 4)
    assert own.dtype == np.float32


def test_similarity_to_nothing_is_zero():
    features = numbered()
    assert (features.similarity(np.zeros(3, np.float32)) == 0).all()


def test_a_vector_of_another_width_is_refused():
    with pytest.raises(SpecError, match=r"shape \(3,\), the vector has \(4,\)"):
        numbered().similarity(np.zeros(4))


def test_what_is_no_map_is_refused():
    with pytest.raises(SpecError, match=r"must be float \(h, w, D\)"):
        numbered(dtype=np.uint8)
    with pytest.raises(SpecError, match="must be positive"):
        numbered(stride=(0.0, 1.0))


def test_its_text_is_short():
    assert repr(numbered()) == "FeatureMap(4x6 cells, 3 channels, frame 0)"


def test_the_last_edge_of_a_frame_belongs_to_the_last_cell():
    """Half a pixel beyond the last pixel's centre is still the frame; a cell's border lies there to the bit."""
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    features = FeatureMap(values=values, stride_px=(8.0, 8.0), offset_px=(0.0, 0.0), frame_size=(16, 24), t_capture_s=0)
    assert features.cell(x=23.5, y=15.5) == (1, 2)
    assert features.cell(x=-0.5, y=-0.5) == (0, 0)
    # The frame ends inside of the map's last cell, and the map inside of the frame.
    longer = FeatureMap(values=values, stride_px=(8.0, 8.0), offset_px=(0.0, 0.0), frame_size=(20, 30), t_capture_s=0)
    assert longer.cell(x=23.5, y=15.5) == (1, 2)
    with pytest.raises(SpecError, match="has no features"):
        longer.cell(x=24.0, y=1.0)
