"""Colours of feature maps: right for one frame, steady over many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.image.colours import ColourBasis, PcaColours, basis_from_maps, fixed_colours

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
    values, amounts = scene()
    painter = PcaColours()
    painter(np.zeros((32, 32, DIM), np.float32))
    for t in range(12):
        colours = painter(with_noise(values, t))
    spread = np.percentile(colours.reshape(-1, 3), 95, axis=0) - np.percentile(
        colours.reshape(-1, 3), 5, axis=0
    ).astype(int)
    assert (spread > 60).all()
    # The directions are those of the first map that has any, not whatever black gave.
    assert abs(np.corrcoef(colours[..., 0].ravel(), amounts[..., 0].ravel())[0, 1]) > 0.95


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


BASIS = basis_from_maps([scene(seed)[0] for seed in range(3)])


def other_scene(seed):
    """Of the same model: other strengths, another mean."""
    values = scene(seed)[0]
    return values * np.float32(0.5) + np.float32(1.5)


def differences(frames, painter, fps=30.0):
    """(mean, 99th percentile) of what changes from each picture to the next, in levels."""
    pictures = [painter(frame, number / fps).astype(int) for number, frame in enumerate(frames)]
    changes = [np.abs(after - before) for before, after in itertools.pairwise(pictures)]
    return [(float(change.mean()), float(np.percentile(change, 99))) for change in changes], pictures


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("basis", [BASIS, None])
def test_a_static_scene_stands_still(noise, basis):
    """With a noise that moves the levels of a picture by itself by 2 in the mean, 10 at the 99th percentile."""
    values = scene()[0]
    rng = np.random.default_rng(0)
    frames = [values + rng.normal(size=values.shape).astype(np.float32) * np.float32(noise) for _ in range(40)]
    changes, _ = differences(frames, PcaColours(basis))
    # The first picture is as noisy as its frame.
    assert max(mean for mean, _ in changes[2:]) < 1
    assert max(high for _, high in changes[2:]) < 3
    if noise == 0.1:
        alone = [PcaColours(BASIS)(frame).astype(int) for frame in frames[:2]]
        assert np.percentile(np.abs(alone[1] - alone[0]), 99) > 6


@pytest.mark.parametrize("fps", [5.0, 30.0])
def test_a_static_scene_stands_still_with_the_noise_of_a_trained_model(fps):
    """As ViT-Ti's last block has it with noise of 2.5 grey levels: see docs/log.md."""
    values = scene()[0]
    rng = np.random.default_rng(0)
    # Levels by cell: 4.5 in the median, 13 in the worst hundredth, up to 40.
    deviation = np.clip(4.5 * np.exp(0.456 * rng.normal(size=(*values.shape[:2], 1))), 0, 40)
    deviation[::16, ::16] = 40
    seen = np.percentile(BASIS.project(values).reshape(-1, 3), (2, 98), axis=0)
    level = (BASIS.directions * np.ptp(seen, axis=0) / 255).T
    noises = [(rng.normal(size=(*values.shape[:2], 3)) * deviation) @ level for _ in range(60)]
    changes, pictures = differences([(values + noise).astype(np.float32) for noise in noises], PcaColours(BASIS), fps)
    assert max(mean for mean, _ in changes[8:]) < 1
    assert max(high for _, high in changes[8:]) < 3
    alone = [PcaColours(BASIS)((values + noise).astype(np.float32)).astype(int) for noise in noises[:2]]
    assert np.percentile(np.abs(alone[1] - alone[0]), 99) > 12
    # And what stands is the scene.
    assert np.abs(pictures[-1] - PcaColours(BASIS)(values).astype(int)).mean() < 4


@pytest.mark.parametrize("fps", [5.0, 30.0])
def test_two_seconds_after_a_cut_the_new_scene_has_settled(fps):
    before, after = scene(0)[0], other_scene(9)
    count = int(2 * fps)
    frames = [with_noise(before, t) for t in range(count)]
    # Of half the strength, so is its noise.
    frames += [(with_noise(after, t) + after) / 2 for t in range(2 * count)]
    changes, pictures = differences(frames, PcaColours(BASIS), fps)
    assert changes[count - 1][0] > 20  # the cut
    assert max(mean for mean, _ in changes[2 * count :]) < 1
    assert max(high for _, high in changes[2 * count :]) < 3
    # And it has settled to what this scene looks like to who sees nothing else.
    fresh = PcaColours(BASIS)(after).astype(int)
    assert np.abs(pictures[2 * count] - fresh).mean() < 4


def test_the_colours_are_the_basis_whatever_was_seen_before():
    """Two processes that begin with other scenes show a third one alike."""
    third = scene(7)[0]
    shown = []
    for first in (scene(0)[0], other_scene(3)):
        painter = PcaColours(BASIS)
        for number in range(60):
            painter(first, number / 30)
        for number in range(60, 150):
            picture = painter(third, number / 30)
        shown.append(picture.astype(int))
    assert np.abs(shown[0] - shown[1]).mean() < 2


def test_motion_is_shown_at_once():
    values = scene()[0]
    painter = PcaColours(BASIS)
    for number in range(30):
        before = painter(values, number / 30).astype(int)
    moved = values.copy()
    moved[8:16, 8:16] = values[20:28, 20:28]
    after = painter(moved, 1.0).astype(int)
    fresh = PcaColours(BASIS)(moved).astype(int)
    large = np.abs(fresh - before) > 60
    assert large.sum() > 30
    assert np.abs(after - fresh)[large].max() < 15


@pytest.mark.parametrize(("levels", "frames"), [(60, 1), (30, 5), (8, 60)])
def test_a_change_that_lasts_is_shown_the_sooner_the_larger_it_is(levels, frames):
    """Large ones at once; smaller ones, which could be noise of one frame, when they have lasted so many frames."""
    values = scene()[0]
    painter = PcaColours(BASIS)
    for number in range(90):
        before = painter(values, number / 30).astype(int)
    moved = values.copy()
    moved[4:12, 4:12] += BASIS.directions[:, 0] * (np.ptp(BASIS.limits, axis=0)[0] * levels / 255)
    expected = PcaColours(BASIS)(moved).astype(int)
    for number in range(90, 90 + frames):
        after = painter(moved, number / 30).astype(int)
    inside = np.s_[4:12, 4:12]
    assert np.abs(expected - before)[inside].mean() > 0.1 * levels
    assert np.abs(after - expected)[inside].max() < 0.3 * levels


def test_a_thing_that_moves_leaves_no_trail():
    values = scene()[0]
    painter, fresh = PcaColours(BASIS), PcaColours(BASIS, is_steady=False)
    thing = values[20:28, 20:28].copy()
    for number in range(24):
        frame = values.copy()
        frame[4:12, number : number + 8] = thing
        shown, expected = (colours(frame, number / 30).astype(int) for colours in (painter, fresh))
        assert (np.abs(shown - expected)[4:12] > 45).mean() < 0.002


def test_pictures_that_have_nothing_in_common_are_each_by_itself():
    painter = PcaColours(BASIS, is_steady=False)
    for values in (scene(0)[0], other_scene(3), scene(5)[0]):
        assert (painter(values) == PcaColours(BASIS)(values)).all()


def test_a_scene_of_little_contrast_is_not_stretched_to_noise():
    painter = PcaColours(BASIS)
    colours = painter((scene()[0] - 2) * np.float32(0.02) + 2)
    assert np.ptp(np.percentile(colours.reshape(-1, 3), (2, 98), axis=0), axis=0).max() < 40


def test_other_sizes_of_a_map_begin_anew():
    painter = PcaColours(BASIS)
    painter(scene()[0])
    assert painter(scene(grid=(8, 8))[0]).shape == (8, 8, 3)


def test_maps_without_a_number_are_black_and_leave_nothing_behind():
    painter = PcaColours(BASIS)
    broken = np.full((32, 32, DIM), np.nan, np.float32)
    assert (painter(broken) == 0).all()
    painter(scene()[0], 10.0)
    assert painter(scene()[0], 20.0).std() > 20
    for number in range(3):
        one = scene()[0]
        one[3, 4] = np.nan if number == 1 else one[3, 4]
        shown = painter(one, 21.0 + number)
        assert (shown[3, 4] == 0).all() == (number == 1)
    assert (PcaColours()(broken) == 0).all()


def test_a_basis_that_cannot_be_is_refused():
    good = {"mean": BASIS.mean, "directions": BASIS.directions, "limits": BASIS.limits}
    for name, value in (("limits", np.zeros((3, 3))), ("directions", BASIS.directions[:4]),
                        ("mean", BASIS.mean * np.nan)):  # fmt: skip
        with pytest.raises(SpecError, match=r"colour basis must be finite|are not those of a mean"):
            ColourBasis(**{**good, name: value})


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
