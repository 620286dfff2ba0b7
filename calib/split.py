"""Which frames calibrate, which choose, which judge: disjoint by content, and of a film by time.

Photographs are divided at random. Neighbours of a film show the same, so a film is cut into stretches that go to one
part each, and where two parts meet frames are left out. Judging frames come in panels: a panel on which a plan fails
has told what to change, so it joins those that choose, and the next plan meets another.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brixel_edge.errors import SpecError

log = logging.getLogger(__name__)

WARN_FRAMES = 16  # fewer for calibration cost accuracy: measured cosine 0.9973 with 1, 0.9991 with 8, 0.9992 from 16
MAX_CHOICE, MAX_JUDGEMENT = 16, 48
STRETCH_S = 2.0
MIN_STRETCHES, MAX_STRETCHES = 8, 32
MAX_GAP_S = 1.0
GAP_SHARE = 0.25  # of a stretch, where that is shorter
PANELS = {48: 3, 8: 2, 1: 1}  # judging frames at least -> panels


@dataclass(frozen=True, kw_only=True)
class FrameSplit:
    """Positions of frames by use.

    Attributes:
        calibration: give ranges and smoothing.
        choice: held out, for the effect of single nodes and the search for a plan.
        judgement: held out from both, for the verdict.
        groups: by position: frames of one group show the same thing, photographs have a group each.
    """

    calibration: tuple[int, ...]
    choice: tuple[int, ...]
    judgement: tuple[int, ...]
    groups: tuple[int, ...]

    def __post_init__(self) -> None:
        parts = self.parts.values()
        if not all(parts):
            sizes = ", ".join(str(len(part)) for part in parts)
            raise SpecError(
                f"the frames leave {sizes} to calibrate, to choose and to judge; give more, or a longer film"
            )
        by_group: dict[int, int] = {}
        for number, part in enumerate(parts):
            for position in part:
                if by_group.setdefault(self.groups[position], number) != number:
                    raise SpecError(
                        f"frame {position} shows what a frame of another part shows; calibration, choice and "
                        "judgement must share none"
                    )

    @property
    def parts(self) -> dict[str, tuple[int, ...]]:
        """Positions by use."""
        return {"calibration": self.calibration, "choice": self.choice, "judgement": self.judgement}

    @property
    def counts(self) -> dict[str, int]:
        """Frames by use, for a receipt."""
        return {name: len(positions) for name, positions in self.parts.items()}

    def panels(self) -> tuple[tuple[int, ...], ...]:
        """The judging frames in the order in which they may be used up; groups stay whole."""
        groups = list(dict.fromkeys(self.groups[position] for position in self.judgement))
        count = next(panels for least, panels in PANELS.items() if len(self.judgement) >= least)
        count = min(count, len(groups))
        panel_of = {group: number * count // len(groups) for number, group in enumerate(groups)}
        return tuple(
            tuple(position for position in self.judgement if panel_of[self.groups[position]] == number)
            for number in range(count)
        )


def split_frames(times_s: Sequence[float | None], seed: int) -> FrameSplit:
    """Divide frames: at most an eighth chooses, a third judges, the rest calibrates.

    Args:
        times_s: of every frame; None for photographs.
        seed: of the division.

    Raises:
        SpecError: too few frames, or too short a film.
    """
    groups = groups_of(times_s)
    count = len(groups)
    quotas = {
        "judgement": max(2, min(MAX_JUDGEMENT, count // 3)),
        "choice": max(2, min(MAX_CHOICE, count // 8)),
        "calibration": count,
    }
    part_of = _parts_of_groups(groups, quotas, seed)
    kept = _apart(times_s, [part_of[group] for group in groups])
    # In the order of the drawn groups, so that panels are random too.
    order = {group: number for number, group in enumerate(part_of)}
    ranked = sorted(kept, key=lambda position: (order[groups[position]], position))
    found = {name: tuple(p for p in ranked if part_of[groups[p]] == name) for name in quotas}
    split = FrameSplit(**found, groups=tuple(groups))
    if len(split.calibration) < WARN_FRAMES:
        log.warning("only %d frames calibrate; %d frames in all would be better", len(split.calibration), 96)
    return split


def groups_of(times_s: Sequence[float | None]) -> list[int]:
    """A number for every photograph, and one for every stretch of a film."""
    film = [time for time in times_s if time is not None]
    begin, stretch_s = min(film, default=0.0), _stretch_s(film)
    return [
        len(times_s) + int((time - begin) / stretch_s) if time is not None else position
        for position, time in enumerate(times_s)
    ]


def _stretch_s(film: Sequence[float]) -> float:
    """Length of a stretch [s]; the last frame is inside the last one."""
    if not film:
        return STRETCH_S
    duration = max(film) - min(film)
    return max(duration / min(max(int(duration / STRETCH_S), MIN_STRETCHES), MAX_STRETCHES) * (1 + 1e-9), 1e-9)


def _parts_of_groups(groups: Sequence[int], quotas: Mapping[str, int], seed: int) -> dict[int, str]:
    """The part of every group, in a random order; a part is filled to its quota of frames, the last takes the rest."""
    distinct = list(dict.fromkeys(groups))
    drawn = [distinct[position] for position in np.random.default_rng(seed).permutation(len(distinct))]
    names = list(quotas)
    part_of: dict[int, str] = {}
    filled = 0
    for group in drawn:
        part_of[group] = names[0]
        filled += groups.count(group)
        if filled >= quotas[names[0]]:
            names, filled = names[1:] or names, 0
    return part_of


def _apart(times_s: Sequence[float | None], parts: Sequence[str]) -> list[int]:
    """Positions without the frames of a film that follow one of another part too closely."""
    film = [time for time in times_s if time is not None]
    gap_s = min(MAX_GAP_S, GAP_SHARE * _stretch_s(film))
    kept = [position for position, time in enumerate(times_s) if time is None]
    last: tuple[float, str] | None = None
    timed = [(time, position) for position, time in enumerate(times_s) if time is not None]
    for time, position in sorted(timed):
        if last is not None and last[1] != parts[position] and time - last[0] < gap_s:
            continue
        last = (time, parts[position])
        kept.append(position)
    return kept
