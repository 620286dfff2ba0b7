"""Sampling, hashing, storing and splitting calibration frames."""

import hashlib

import cv2
import numpy as np
import pytest
from calib_vit import toy_frames

from brixel_edge.calib.frames import frame_hash, sample_frames, split_frames, store_frames, thumbnail
from brixel_edge.calib.sources import calibration_frames
from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.spec import ImageSpec
from brixel_edge.runtimes.sources.frames import Frame as SourceFrame


def test_hash_is_sha256_of_shape_and_pixels():
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert frame_hash(frame) == hashlib.sha256(b"(2, 2, 3)" + bytes(range(12))).hexdigest()


def test_hash_tells_a_reshaped_frame_apart():
    frame = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert frame_hash(frame) != frame_hash(frame.reshape(4, 2, 3))


def test_store_gives_back_each_frame_once(tmp_path):
    frames = toy_frames(9)
    store = store_frames([*frames, frames[3]], tmp_path / "frames", (112, 112))
    assert len(store) == 9
    assert all((store[position][0] == frame).all() for position, frame in enumerate(frames))
    assert (tmp_path / "frames").stat().st_size == 9 * 112 * 112 * 3


def test_store_refuses_a_constant_set(tmp_path):
    flat = [np.full((112, 112, 3), level, np.uint8) for level in range(20)]
    with pytest.raises(SpecError, match=r"20 of 20 calibration frames are flat"):
        store_frames(flat, tmp_path / "frames", (112, 112))


def test_store_refuses_one_frame_many_times(tmp_path):
    with pytest.raises(SpecError, match=r"1 different calibration frames of 30 given"):
        store_frames(toy_frames(1) * 30, tmp_path / "frames", (112, 112))


@pytest.mark.parametrize("frame", [np.zeros((96, 112, 3), np.uint8), np.zeros((112, 112, 3), np.float32)])
def test_store_refuses_another_size_or_type(tmp_path, frame):
    with pytest.raises(SpecError, match=r"the graph takes uint8 \(112, 112, 3\)"):
        store_frames([frame], tmp_path / "frames", (112, 112))


def test_split_parts_are_disjoint_and_complete():
    split = split_frames(40, seed=3)
    parts = [*split.calibration, *split.sensitivity, *split.evaluation]
    assert sorted(parts) == list(range(40))
    assert (len(split.calibration), len(split.sensitivity), len(split.evaluation)) == (25, 5, 10)
    assert split == split_frames(40, seed=3) != split_frames(40, seed=4)


def test_split_of_many_frames_holds_out_a_fixed_number():
    split = split_frames(500, seed=0)
    assert (len(split.sensitivity), len(split.evaluation)) == (8, 16)


def test_split_warns_of_few_frames(caplog):
    split_frames(12, seed=0)
    assert "only 7 frames calibrate" in caplog.text


def test_thumbnail_is_block_means():
    frame = np.kron(np.arange(192).reshape(8, 8, 3), np.ones((4, 2, 1))).astype(np.uint8)
    assert (thumbnail(frame) == np.arange(192)).all()


def test_sample_prefers_different_frames():
    near = [np.full((16, 16, 3), 100 + noise, np.uint8) for noise in (0, 1, 2, 3, 4, 5)]
    far = [np.full((16, 16, 3), level, np.uint8) for level in (0, 250)]
    chosen = sample_frames([*near, *far], 3, seed=0)
    assert {0, 250} <= {int(frame[0, 0, 0]) for frame in chosen}


def test_sample_of_an_endless_stream_ends_and_repeats():
    def camera():
        rng = np.random.default_rng(5)
        while True:
            yield rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)

    first, second = (sample_frames(camera(), 4, seed=1, horizon=50, pool=2) for _ in range(2))
    assert len(first) == 4
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


SPEC = ImageSpec(height=32, width=48, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channels="RGB")


@pytest.fixture
def folder(tmp_path):
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((64, 96, 3), (10, 5 * number, 200), np.uint8))
    return tmp_path


def test_folder_gives_a_seeded_choice_at_the_graphs_size_and_order(folder):
    frames = calibration_frames(str(folder), SPEC, count=5, seed=2, shown=False)
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 5
    levels = [int(frame[0, 0, 1]) for frame in frames]
    assert levels == sorted(levels) and all(
        (frame[0, 0] == (200, level, 10)).all() for frame, level in zip(frames, levels, strict=True)
    )
    again, other = (calibration_frames(str(folder), SPEC, count=5, seed=seed, shown=False) for seed in (2, 3))
    assert all((a == b).all() for a, b in zip(frames, again, strict=True))
    assert levels != [int(frame[0, 0, 1]) for frame in other]


def test_glob_is_a_source(folder):
    assert len(calibration_frames(str(folder / "1*.png"), SPEC, count=64, shown=False)) == 11


def test_video_is_sampled_apart_in_time(tmp_path):
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for number in range(30):
        writer.write(np.full((64, 96, 3), 8 * number, np.uint8))
    writer.release()
    frames = calibration_frames(path, SPEC, count=64, seed=0, shown=False)
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
    frames = calibration_frames("0", SPEC, count=8, seed=0, shown=False)
    assert len(frames) == 8 and camera.closed
    assert camera.index == 61


def test_missing_source_is_refused(tmp_path):
    with pytest.raises(BundleError, match="is not there"):
        calibration_frames(str(tmp_path / "nothing"), SPEC, shown=False)
