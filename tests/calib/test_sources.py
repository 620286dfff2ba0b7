"""Calibration frames from folders, globs, films and cameras."""

import tracemalloc

import cv2
import numpy as np
import pytest

from brixel_edge.calib.sources import calibration_frames
from brixel_edge.errors import BundleError
from brixel_edge.model.spec import ImageSpec
from brixel_edge.runtimes.sources.frames import Frame as SourceFrame

SPEC = ImageSpec(height=32, width=48, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channels="RGB")


@pytest.fixture
def folder(tmp_path):
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((64, 96, 3), (10, 5 * number, 200), np.uint8))
    return tmp_path


def test_folder_gives_a_seeded_choice_at_the_graphs_size_and_order(folder):
    frames = [frame[0] for frame in calibration_frames(str(folder), SPEC, count=5, seed=2)]
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 5
    levels = [int(frame[0, 0, 1]) for frame in frames]
    assert levels == sorted(levels) and all(
        (frame[0, 0] == (200, level, 10)).all() for frame, level in zip(frames, levels, strict=True)
    )
    again, other = (
        [frame[0] for frame in calibration_frames(str(folder), SPEC, count=5, seed=seed)] for seed in (2, 3)
    )
    assert all((a == b).all() for a, b in zip(frames, again, strict=True))
    assert levels != [int(frame[0, 0, 1]) for frame in other]


def test_glob_is_a_source(folder):
    assert len(calibration_frames(str(folder / "1*.png"), SPEC, count=64)) == 11


def test_video_is_sampled_apart_in_time(tmp_path):
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for number in range(30):
        writer.write(np.full((64, 96, 3), 8 * number, np.uint8))
    writer.release()
    frames = calibration_frames(path, SPEC, count=64, seed=0)
    levels = sorted(round(float(frame.mean()) / 8) for frame in frames)
    assert levels == list(range(0, 30, 2))  # ten frames a second, one taken every 0.2 s


def test_live_source_ends_by_itself(monkeypatch):
    class Camera:
        is_live, closed = True, False
        description, fps, skipped = "camera", 10.0, 0

        def __init__(self):
            self.index = 0

        def read(self):
            self.index += 1
            image = np.full((64, 96, 3), self.index % 251, np.uint8)
            return SourceFrame(
                image=image, index=self.index, t_capture_s=0.0, t_media_s=self.index * 1.0, capture_s=0.0
            )

        def close(self):
            self.closed = True

    camera = Camera()
    monkeypatch.setattr("brixel_edge.calib.sources.open_source", lambda text: camera)
    frames = calibration_frames("0", SPEC, count=8, seed=0)
    assert len(frames) == 8 and camera.closed
    assert camera.index == 61


def test_missing_source_is_refused(tmp_path):
    with pytest.raises(BundleError, match="is not there"):
        calibration_frames(str(tmp_path / "nothing"), SPEC)


@pytest.mark.parametrize("is_film", [False, True])
def test_memory_does_not_grow_with_the_frames(tmp_path, monkeypatch, is_film):
    """40 frames wanted of 200: a film's reservoir holds 160 of them; all lie on disk."""
    rng = np.random.default_rng(0)
    spec = ImageSpec(height=256, width=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channels="BGR")

    class Film:
        is_live, description, fps, skipped = False, "film", 1.0, 0
        count = 0

        def read(self):
            self.count += 1
            if self.count > 200:
                return None
            image = rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)
            t_media_s = float(self.count)
            return SourceFrame(image=image, index=self.count, t_capture_s=0.0, t_media_s=t_media_s, capture_s=0.0)

        def close(self):
            pass

    if is_film:
        monkeypatch.setattr("brixel_edge.calib.sources.open_source", lambda text: Film())
    else:
        for number in range(40):
            cv2.imwrite(str(tmp_path / f"{number}.bmp"), rng.integers(0, 255, (256, 256, 3), dtype=np.uint8))
    tracemalloc.start()
    try:
        frames = calibration_frames("film.mp4" if is_film else str(tmp_path), spec, count=40)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(frames) == 40
    assert peak_bytes < 20 * 256 * 256 * 3
