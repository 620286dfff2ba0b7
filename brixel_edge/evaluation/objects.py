"""J and F of object masks in videos, as DAVIS defines them.

J is the IoU of a mask; F the harmonic mean of how much of its outline lies near the true outline, and the other way
round. The first frame is given and the last is not scored; means over frames, then over all objects of all videos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

NO_OBJECT = 255  # of an annotation: pixels that are not scored
# How far outlines may be apart, as a part of the picture's diagonal.
OUTLINE_TOLERANCE = 0.008


@dataclass(frozen=True, kw_only=True)
class ObjectScore:
    """One object of one video.

    Attributes:
        video: its name.
        number: of the object.
        region: J, mean over frames.
        outline: F, mean over frames.
    """

    video: str
    number: int
    region: float
    outline: float


def region_overlap(mask: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """IoU of two masks; 1 where both are empty."""
    union = int((mask | true).sum())
    return int((mask & true).sum()) / union if union else 1.0


def outline_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose right, lower or lower right neighbour is on the other side; the border repeats itself."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])


def outline_overlap(mask: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """F of two masks' outlines."""
    reach = math.ceil(OUTLINE_TOLERANCE * math.hypot(*mask.shape))
    offsets = np.arange(-reach, reach + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= reach**2).astype(np.uint8)
    ours, theirs = outline_of(mask), outline_of(true)
    near_ours, near_theirs = (cv2.dilate(outline.astype(np.uint8), disk) > 0 for outline in (ours, theirs))
    count, true_count = int(ours.sum()), int(theirs.sum())
    if not count or not true_count:
        return float(count == true_count)
    precision, recall = int((ours & near_theirs).sum()) / count, int((theirs & near_ours).sum()) / true_count
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score_objects(
    video: str, predicted: Sequence[NDArray[np.uint8]], true: Sequence[NDArray[np.uint8]]
) -> list[ObjectScore]:
    """Score every object of a video's first frame.

    Args:
        video: its name.
        predicted: (H, W) object numbers, all frames.
        true: the same; `NO_OBJECT` pixels count as none.
    """
    numbers = [int(number) for number in np.unique(true[0]) if number not in (0, NO_OBJECT)]
    # DAVIS leaves out the first and the last frame; a video of two frames has only its second.
    scored = range(1, max(2, len(true) - 1))
    scores = []
    for number in numbers:
        pairs = [(predicted[i] == number, true[i] == number) for i in scored]
        scores.append(
            ObjectScore(
                video=video,
                number=number,
                region=math.fsum(region_overlap(*pair) for pair in pairs) / len(pairs),
                outline=math.fsum(outline_overlap(*pair) for pair in pairs) / len(pairs),
            )
        )
    return scores


def summary(scores: Sequence[ObjectScore]) -> dict[str, float]:
    """J, F and their mean over all objects."""
    if not scores:
        return {"j_and_f": math.nan}
    region = math.fsum(score.region for score in scores) / len(scores)
    outline = math.fsum(score.outline for score in scores) / len(scores)
    return {"j_and_f": (region + outline) / 2, "j": region, "f": outline}
