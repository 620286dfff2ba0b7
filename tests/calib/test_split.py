"""Which frames calibrate, choose and judge: disjoint, and of a film apart in time."""

import numpy as np
import pytest

from brixel_edge.calib.split import FrameSplit, groups_of, split_frames
from brixel_edge.errors import SpecError

PHOTOGRAPHS = [None] * 40


def test_parts_of_photographs_are_disjoint_and_complete():
    split = split_frames(PHOTOGRAPHS, seed=3)
    assert sorted([*split.calibration, *split.choice, *split.judgement]) == list(range(40))
    assert split.counts == {"calibration": 22, "choice": 5, "judgement": 13}
    assert split == split_frames(PHOTOGRAPHS, seed=3) != split_frames(PHOTOGRAPHS, seed=4)


def test_photographs_are_divided_at_random():
    judgement = split_frames([None] * 400, seed=0).judgement
    assert 100 < np.mean(judgement) < 300 and len(set(np.diff(sorted(judgement)))) > 3


def test_many_frames_hold_out_a_fixed_number():
    split = split_frames([None] * 500, seed=0)
    assert (len(split.choice), len(split.judgement)) == (16, 48)


def test_few_frames_are_warned_of_and_too_few_refused(caplog):
    split_frames([None] * 12, seed=0)
    assert "only 6 frames calibrate" in caplog.text
    with pytest.raises(SpecError, match="the frames leave 0, 1, 2 to calibrate, to choose and to judge"):
        split_frames([None] * 3, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_film_is_cut_into_stretches_and_no_neighbours_are_in_two_parts(seed):
    """100 s, a frame every 0.2 s: 32 stretches of 3.1 s; the gap is a quarter of one."""
    times = [0.2 * number for number in range(501)]
    split = split_frames(times, seed)
    of = {position: name for name, positions in split.parts.items() for position in positions}
    between = [times[b] - times[a] for a, b in zip(sorted(of), sorted(of)[1:], strict=False) if of[a] != of[b]]
    assert min(between) >= 100 / 32 / 4
    assert len(between) > 6  # each part is in several places of the film
    assert len(of) > 400


def test_the_order_of_a_films_frames_does_not_matter():
    times = [0.2 * number for number in range(200)]
    shuffled = [int(position) for position in np.random.default_rng(0).permutation(200)]
    groups = groups_of(times)
    assert [groups_of([times[position] for position in shuffled])[k] for k in range(200)] == [
        groups[position] for position in shuffled
    ]


def test_a_photograph_is_a_group_and_a_stretch_is_one():
    """16 s: 8 stretches of 2 s."""
    assert groups_of([None, 0.0, 1.9, 2.1, None, 16.0]) == [0, 6, 6, 7, 4, 13]


def test_parts_that_share_a_group_are_refused():
    with pytest.raises(SpecError, match="frame 2 shows what a frame of another part shows"):
        FrameSplit(calibration=(0,), choice=(1,), judgement=(2,), groups=(5, 6, 5))


def test_panels_are_the_judging_frames_each_once_and_whole_groups():
    split = split_frames([None] * 96, seed=0)
    panels = split.panels()
    assert [len(panel) for panel in panels] == [16, 16]
    assert sorted(position for panel in panels for position in panel) == sorted(split.judgement)
    film = split_frames([0.2 * number for number in range(501)], seed=0)
    groups = [{film.groups[position] for position in panel} for panel in film.panels()]
    assert len(groups) == 3 and not groups[0] & groups[1] and not groups[1] & groups[2]
    assert [len(split_frames([None] * n, seed=0).panels()) for n in (12, 24, 144)] == [1, 2, 3]
