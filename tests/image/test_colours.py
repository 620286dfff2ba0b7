"""Colours of feature maps: right for one frame, steady over many."""

from __future__ import annotations

import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.image.colours import PcaColours, fixed_colours

DIM = 32


def scene(seed=0, grid=(32, 32)):
    """Background of three strong directions plus weak ones, smooth over the map."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    strength = np.array([8.0, 5.0, 3.0] + [0.1] * (DIM - 3))
    amounts = rng.normal(size=(*grid, DIM)) * strength
    return (amounts @ directions.T + 2.0).astype(np.float32), amounts


def with_noise(values, seed):
    return values + np.random.default_rng(seed).normal(size=values.shape).astype(np.float32) * 0.05


def test_one_frame_shows_its_three_principal_components():
    values, amounts = scene()
    colours = PcaColours()(values)
    assert colours.shape == (32, 32, 3)
    assert colours.dtype == np.uint8
    for component in range(3):
        shown = colours[..., component].astype(float)
        inside = (shown > 0) & (shown < 255)
        correlation = np.corrcoef(shown[inside], amounts[..., component][inside])[0, 1]
        assert abs(correlation) > 0.98
        # 2 % at each end are clipped.
        assert 0.9 < inside.mean() < 0.99


def test_channels_apart_in_memory_give_the_same():
    values, _ = scene()
    apart = np.ascontiguousarray(values.transpose(2, 0, 1)).transpose(1, 2, 0)
    difference = PcaColours()(values).astype(int) - PcaColours()(apart)
    assert np.abs(difference).max() <= 1


def test_colours_stay_when_objects_enter():
    """The survey's stream: what does not change keeps its colour; a PCA of each frame does not manage that."""
    values, _ = scene()
    rng = np.random.default_rng(5)
    entering = rng.normal(size=DIM).astype(np.float32) * 6
    steady, changes, separate_changes = PcaColours(), [], []
    before = separate_before = None
    for t in range(40):
        frame = with_noise(values, t)
        if t >= 15:
            frame[4:20, 4:20] = entering + with_noise(np.zeros((16, 16, DIM), np.float32), 100 + t)
        colours, separate = steady(frame).astype(int), PcaColours()(frame).astype(int)
        if before is not None:
            unchanged = np.s_[20:, 20:]
            changes.append(np.abs(colours - before)[unchanged].mean())
            separate_changes.append(np.abs(separate - separate_before)[unchanged].mean())
        before, separate_before = colours, separate
    assert max(changes) < 6
    assert max(separate_changes) > 4 * max(changes)


def test_an_object_that_came_late_gets_colours_of_its_own():
    values, _ = scene()
    rng = np.random.default_rng(7)
    entering = rng.normal(size=DIM).astype(np.float32) * 12
    painter = PcaColours()
    for t in range(80):
        frame = with_noise(values * 0.2, t)
        if t >= 20:
            frame[:16, :16] = entering
        colours = painter(frame).astype(int)
    inside, outside = colours[:16, :16].reshape(-1, 3).mean(0), colours[16:, 16:].reshape(-1, 3).mean(0)
    assert np.abs(inside - outside).max() > 60


def test_a_black_first_frame_does_not_linger():
    values, _ = scene()
    painter = PcaColours(refresh_every=1)
    painter(np.zeros((32, 32, DIM), np.float32))
    for t in range(12):
        colours = painter(with_noise(values, t))
    spread = np.percentile(colours.reshape(-1, 3), 95, axis=0) - np.percentile(
        colours.reshape(-1, 3), 5, axis=0
    ).astype(int)
    assert (spread > 60).all()


def test_a_flat_frame_is_not_amplified_noise():
    colours = PcaColours()(np.full((16, 16, DIM), 3.0, np.float32))
    assert np.ptp(colours.reshape(-1, 3), axis=0).max() <= 1


def test_half_precision_is_taken():
    values, _ = scene()
    assert PcaColours()(values.astype(np.float16)).shape == (32, 32, 3)


def test_two_runs_agree():
    values, _ = scene()
    assert (PcaColours()(values) == PcaColours()(values)).all()


def test_another_width_is_refused():
    painter = PcaColours()
    painter(scene()[0])
    with pytest.raises(SpecError, match="with the D of the maps before it"):
        painter(np.zeros((8, 8, DIM + 1), np.float32))


@pytest.mark.parametrize("settings", [{"momentum": 0.0}, {"momentum": 1.5}, {"refresh_every": 0}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(SpecError, match="must be in"):
        PcaColours(**settings)


def test_fixed_colours_are_those_of_the_principal_components_by_svd():
    values, _ = scene()
    second = scene(seed=1)[0][:8]
    shown = fixed_colours([values, second])(values).astype(float)
    cells = np.concatenate([values.reshape(-1, DIM), second.reshape(-1, DIM)]).astype(np.float64)
    components = (cells - cells.mean(0)) @ np.linalg.svd(cells - cells.mean(0), full_matrices=False)[2][:3].T
    for number in range(3):
        low, high = np.percentile(components[:, number], (2, 98))
        expected = (components[: 32 * 32, number] - low) / (high - low) * 255
        either_sign = (np.clip(expected, 0, 255), np.clip(255 - expected, 0, 255))
        assert min(np.abs(shown[..., number].ravel() - levels).max() for levels in either_sign) < 1.5


def test_fixed_colours_are_the_same_for_other_maps_and_black_without_a_number():
    values, _ = scene()
    colours = fixed_colours([values])
    other = values[:4, :6].copy()
    other[1, 2] = np.nan
    other[0, 0, 3] = np.inf
    shown = colours(other)
    assert (shown[2:] == colours(values)[2:4, :6]).all()
    assert (shown[1, 2] == 0).all()
