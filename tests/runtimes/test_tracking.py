"""A thing that was clicked in the first frame of a video is the best match in later ones, against boxes drawn by hand.

Features are those of a really trained ViT-Ti, block 5 of 12, at 22 x 40 cells. What it cannot: see docs/log.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import brixel_edge
from brixel_edge.commands.export import main as export

TRACKED = json.loads((Path(__file__).parents[1] / "data" / "tracked_boxes.json").read_text(encoding="utf-8"))


def overlap(one, other):
    """Area of the intersection over that of the union of two boxes (left, top, right, bottom)."""
    width, height = (max(0, min(one[2 + axis], other[2 + axis]) - max(one[axis], other[axis])) for axis in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def frames_of(path, wanted):
    capture = cv2.VideoCapture(str(path))
    for number in range(max(wanted) + 1):
        is_there, frame = capture.read()
        assert is_there
        if number in wanted:
            yield number, frame


@pytest.fixture(scope="module")
def model(shared, tmp_path_factory):
    out = tmp_path_factory.mktemp("tracking") / "tiny.brixel"
    weights = shared / "data" / "backbones" / "vit_tiny_patch16_224.safetensors"
    arguments = ("--adapter", "none", "--tap-layers", "5", "--size", "352x640", "--no-bench", "--out", out)
    assert export(["--backbone", "vit_tiny_patch16_224", "--backbone-weights", *map(str, (weights, *arguments))]) == 0
    with brixel_edge.open_model(out) as opened:
        yield opened


def test_boxes_were_drawn_on_ten_frames_each():
    assert [len(entry["boxes"]) for entry in TRACKED.values()] == [10, 10]
    for entry in TRACKED.values():
        assert all(left < right and top < bottom for left, top, right, bottom in entry["boxes"].values())


@pytest.mark.slow
@pytest.mark.parametrize(("video", "least_overlap"), [("01_dog.mp4", 0.45), ("04_coffee.mp4", 0.75)])
def test_the_best_match_is_the_thing_that_was_clicked(model, shared, video, least_overlap, capsys):
    entry = TRACKED[video]
    boxes = {int(number): box for number, box in entry["boxes"].items()}
    things, overlaps, inside = brixel_edge.Prototypes(), [], []
    for number, frame in frames_of(shared / "data" / "videos" / video, {0, *boxes}):
        features = model(frame)
        if number == 0:
            things.add("thing", features, x=entry["point"][0], y=entry["point"][1])
            continue
        match, (left, top, right, bottom) = things.find(features)["thing"], boxes[number]
        inside.append(left <= match.point[0] <= right and top <= match.point[1] <= bottom)
        overlaps.append(overlap(match.box, boxes[number]) if match.box is not None else 0.0)
    with capsys.disabled():
        print(f"\n{video}: best match inside in {sum(inside)} of 10, mean overlap {np.mean(overlaps):.2f}")
    assert all(inside)
    assert np.mean(overlaps) >= least_overlap
