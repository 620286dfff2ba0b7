"""J and F by loops, and masks handed on in a video whose motion is known."""

import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from brixel_edge.evaluation.layouts.video import davis
from brixel_edge.evaluation.objects import (
    outline_of,
    outline_overlap,
    region_overlap,
    score_objects,
    summary,
)
from brixel_edge.evaluation.propagation import handed_on, propagate
from brixel_edge.evaluation.settings import InputSize
from brixel_edge.evaluation.sources import FeatureKind


def disk(height, width, y, x, radius):
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def outline_f_by_loops(mask, true):
    """Distances from every outline pixel to the other outline, all against all."""
    reach = math.ceil(0.008 * math.hypot(*mask.shape))  # DAVIS's tolerance

    def outline(m):
        found = []
        for y in range(m.shape[0]):
            for x in range(m.shape[1]):
                right, down = min(x + 1, m.shape[1] - 1), min(y + 1, m.shape[0] - 1)
                if m[y, x] != m[y, right] or m[y, x] != m[down, x] or m[y, x] != m[down, right]:
                    found.append((y, x))
        return found

    def share(points, others):
        near = sum(any((y - v) ** 2 + (x - u) ** 2 <= reach**2 for v, u in others) for y, x in points)
        return near / len(points)

    ours, theirs = outline(mask), outline(true)
    precision, recall = share(ours, theirs), share(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("shift", [0, 1, 3, 30])
def test_region_and_outline_are_those_of_loops(shift):
    true, mask = disk(90, 120, 40, 25, 12), disk(90, 120, 40, 25 + shift, 13)
    both = sum(bool(a and b) for a, b in zip(mask.ravel(), true.ravel(), strict=True))
    either = sum(bool(a or b) for a, b in zip(mask.ravel(), true.ravel(), strict=True))
    assert region_overlap(mask, true) == pytest.approx(both / either)
    assert outline_overlap(mask, true) == pytest.approx(outline_f_by_loops(mask, true))


def test_empty_masks_agree_with_each_other_and_with_nothing_else():
    empty, mask = np.zeros((20, 20), bool), disk(20, 20, 10, 10, 4)
    assert region_overlap(empty, empty) == outline_overlap(empty, empty) == 1
    assert region_overlap(empty, mask) == outline_overlap(empty, mask) == outline_overlap(mask, empty) == 0
    assert not outline_of(np.ones((5, 5), bool)).any()


def test_the_first_and_the_last_frame_are_not_scored():
    true = [disk(20, 20, 10, 10, 5).astype(np.uint8) * 2 for _ in range(4)]
    predicted = [np.zeros((20, 20), np.uint8), true[1], true[2], np.zeros((20, 20), np.uint8)]
    scores = score_objects("v", predicted, true)
    assert [(score.number, score.region, score.outline) for score in scores] == [(2, 1.0, 1.0)]
    worse = score_objects("w", [true[0], np.zeros((20, 20), np.uint8), true[2], true[3]], true)
    assert summary(scores + worse) == pytest.approx({"j_and_f": 0.75, "j": 0.75, "f": 0.75})


def test_unlabelled_pixels_of_the_first_frame_are_no_object():
    true = [np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.uint8)]
    true[0][2:5, 2:5] = 1
    assert [score.number for score in score_objects("v", true, true)] == [1]


def handed_on_by_loops(features, context):
    """Every cell against every cell in reach, one by one."""
    _, height, width = features.shape
    reach = max(1, round(0.2 * height))
    labels = np.zeros((context[0][1].shape[0], height, width))
    for y in range(height):
        for x in range(width):
            found = [
                (float(features[:, y, x] @ other[:, v, u]), shares[:, v, u].numpy())
                for other, shares in context
                for v in range(height)
                for u in range(width)
                if abs(v - y) <= reach and abs(u - x) <= reach
            ]
            best = sorted(found, key=lambda pair: -pair[0])[:5]
            weights = np.exp(np.array([cosine for cosine, _ in best]) / 0.1)
            labels[:, y, x] = sum(w * s for w, (_, s) in zip(weights / weights.sum(), best, strict=True))
    return labels


@pytest.mark.parametrize("grid", [(2, 3), (10, 7)])
def test_labels_are_handed_on_as_loops_over_cells_do(grid):
    generator = torch.Generator().manual_seed(0)

    def frame():
        cells = torch.randn(6, *grid, generator=generator)
        return torch.nn.functional.normalize(cells, dim=0)

    context = [(frame(), torch.rand(3, *grid, generator=generator)) for _ in range(3)]
    features = frame()
    assert np.allclose(handed_on(features, context).numpy(), handed_on_by_loops(features, context), atol=1e-5)


class Colours:
    """Cells of 4 x 4 pixels, told apart by their colour."""

    identity = "colours"

    def map_of(self, frame, view, kernel):
        small = cv2.resize(frame, (frame.shape[1] // 4, frame.shape[0] // 4), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(small.astype(np.float32).transpose(2, 0, 1) + 1)


@pytest.fixture
def moving_disk(tmp_path):
    """DAVIS's folders with a red disk on blue that moves 4 pixels a frame."""
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("ball\n")
    for part in ("JPEGImages", "Annotations"):
        (tmp_path / part / "480p" / "ball").mkdir(parents=True)
    for number in range(5):
        mask = disk(64, 96, 32, 30 + 4 * number, 14)
        picture = np.where(mask[..., None], (20, 20, 220), (200, 40, 20)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "JPEGImages" / "480p" / "ball" / f"{number:05d}.jpg"), picture)
        label = Image.fromarray(mask.astype(np.uint8), "P")
        label.putpalette([0, 0, 0, 128, 0, 0])
        label.save(tmp_path / "Annotations" / "480p" / "ball" / f"{number:05d}.png")
    return tmp_path


def test_a_mask_follows_a_moving_disk(moving_disk):
    (video,) = davis(moving_disk)
    kind = FeatureKind(name="colours", source=Colours())
    predicted, true = propagate(video, kind, InputSize(short=64), "bicubic", torch.device("cpu"))
    (score,) = score_objects(video.name, predicted, true)
    assert score.number == 1 and score.region > 0.85 and score.outline > 0.7
    # Without features to tell the disk by, it stays where it was.
    blind = FeatureKind(name="blind", source=type("Blind", (Colours,), {"map_of": lambda *_: torch.ones(3, 16, 24)})())
    stuck, _ = propagate(video, blind, InputSize(short=64), "bicubic", torch.device("cpu"))
    assert score_objects(video.name, stuck, true)[0].region < 0.6
