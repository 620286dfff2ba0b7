"""Sampling, hashing, storing and splitting calibration frames."""

import hashlib
import itertools

import numpy as np
import pytest
from calib_vit import toy_frames

from brixel_edge.calib.frames import (
    Shot,
    frame_hash,
    require_variety,
    sample_frames,
    store_frames,
    thumbnail,
)
from brixel_edge.errors import SpecError


def test_hash_is_sha256_of_shape_and_pixels():
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert frame_hash(frame) == hashlib.sha256(b"(2, 2, 3)" + bytes(range(12))).hexdigest()


def test_hash_tells_a_reshaped_frame_apart():
    frame = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert frame_hash(frame) != frame_hash(frame.reshape(4, 2, 3))


def test_store_gives_back_each_frame_once():
    frames = toy_frames(9)
    store = store_frames([*frames, frames[3]], (112, 112))
    assert len(store) == 9
    assert all((store[position][0] == frame).all() for position, frame in enumerate(frames))
    with pytest.raises(IndexError):
        store[9]


def test_a_constant_set_is_refused():
    flat = [np.full((112, 112, 3), level, np.uint8) for level in range(20)]
    with pytest.raises(SpecError, match=r"20 of 20 calibration frames are flat"):
        require_variety(store_frames(flat, (112, 112)), (112, 112))


def test_one_frame_many_times_is_refused():
    with pytest.raises(SpecError, match=r"1 different calibration frames of 30 given"):
        require_variety(store_frames(toy_frames(1) * 30, (112, 112)), (112, 112))


@pytest.mark.parametrize("frame", [np.zeros((96, 112, 3), np.uint8), np.zeros((112, 112, 3), np.float32)])
def test_store_refuses_another_size_or_type(frame):
    with pytest.raises(SpecError, match=r"the graph takes uint8 \(112, 112, 3\)"):
        store_frames([frame], (112, 112))


def test_thumbnail_is_block_means():
    frame = np.kron(np.arange(192).reshape(8, 8, 3), np.ones((4, 2, 1))).astype(np.uint8)
    assert (thumbnail(frame) == np.arange(192)).all()


def test_sample_prefers_different_frames():
    near = [np.full((16, 16, 3), 100 + noise, np.uint8) for noise in (0, 1, 2, 3, 4, 5)]
    far = [np.full((16, 16, 3), level, np.uint8) for level in (0, 250)]
    chosen = list(sample_frames((Shot(image=frame) for frame in [*near, *far]), 3, seed=0))
    assert {0, 250} <= {int(shot.image[0, 0, 0]) for shot in chosen}


def test_sample_of_an_endless_stream_ends_and_repeats():
    def camera():
        rng = np.random.default_rng(5)
        for number in itertools.count():
            yield Shot(image=rng.integers(0, 255, (16, 16, 3)).astype(np.uint8), t_s=number / 10)

    first, second = (list(sample_frames(camera(), 4, seed=1, horizon=50, pool=2)) for _ in range(2))
    assert len(first) == 4
    assert all((a.image == b.image).all() and a.t_s == b.t_s for a, b in zip(first, second, strict=True))
