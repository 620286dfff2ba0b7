"""Which frames to calibrate on: a reproducible sample, known by its hashes, split into disjoint parts.

A source is any iterable of uint8 BGR frames: a folder, a video or a live camera, opened by `brixel_edge.runtimes`.
Frames reach this module at the graph's size. Memory does not grow with their number: they lie in one file and are
read one by one. Real frames of the robot's own camera are wanted, dark and overexposed ones too; flat ones give
useless ranges (measured: cosine 0.978 where photographs give 0.999), so a set of those is refused.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError

log = logging.getLogger(__name__)

Frame = NDArray[np.uint8]
MIN_FRAMES = 8
WARN_FRAMES = 16  # fewer for calibration cost accuracy: measured cosine 0.9973 with 1, 0.9991 with 8, 0.9992 from 16
FLAT_LEVELS = 3.0  # a frame whose standard deviation is lower shows nothing


def frame_hash(frame: Frame) -> str:
    """sha256 over a frame's shape and pixels."""
    return hashlib.sha256(repr(frame.shape).encode() + np.ascontiguousarray(frame).tobytes()).hexdigest()


def sample_frames(source: Iterable[Frame], count: int, seed: int, *, horizon: int = 2000, pool: int = 4) -> list[Frame]:
    """A diverse, reproducible sample of a stream.

    A seeded reservoir keeps `pool * count` of the first `horizon` frames; of those, farthest-point selection on 8x8
    thumbnails keeps `count`, because different frames beat more frames.

    Args:
        source: uint8 (H, W, 3) frames, all of one size; may be endless.
        count: frames wanted.
        seed: of the reservoir and of the first frame.
        horizon: how many frames of the source to look at.
        pool: candidates per wanted frame.
    """
    rng = np.random.default_rng(seed)
    kept: list[Frame] = []
    for position, frame in enumerate(itertools.islice(source, horizon)):
        slot = position if position < pool * count else int(rng.integers(position + 1))
        if slot < len(kept):
            kept[slot] = frame.copy()
        elif slot < pool * count:
            kept.append(frame.copy())
    chosen = _farthest_points(np.stack([thumbnail(frame) for frame in kept]), count, rng) if kept else []
    return [kept[position] for position in chosen]


def thumbnail(frame: Frame) -> NDArray[np.float32]:
    """The frame's 8x8 block means, (192,)."""
    rows, columns = (np.linspace(0, side, 9).astype(int) for side in frame.shape[:2])
    means = [
        frame[top:bottom, left:right].mean((0, 1))
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]
    return np.concatenate(means).astype(np.float32)


def _farthest_points(points: NDArray[np.float32], count: int, rng: np.random.Generator) -> list[int]:
    chosen = [int(rng.integers(len(points)))]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


@dataclass(frozen=True, kw_only=True)
class FrameStore:
    """Frames in one file, read one at a time.

    Attributes:
        path: the file.
        size: (H, W) [px].
        hashes: sha256 of every frame, in order.
    """

    path: Path
    size: tuple[int, int]
    hashes: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, position: int) -> Frame:
        """One frame, uint8 (1, H, W, 3)."""
        shape = (1, *self.size, 3)
        count = int(np.prod(shape))
        if not 0 <= position < len(self):
            raise IndexError(position)
        return np.fromfile(self.path, np.uint8, count, offset=position * count).reshape(shape)

    def pick(self, positions: Iterable[int]) -> Iterator[Frame]:
        """The frames at `positions`, one by one."""
        return (self[position] for position in positions)


def store_frames(frames: Iterable[Frame], path: Path, size: tuple[int, int]) -> FrameStore:
    """Write frames to a file, each once.

    Args:
        frames: uint8 (H, W, 3) at the graph's size.
        path: the file to write.
        size: (H, W) of the graph [px].

    Raises:
        SpecError: a frame of another size or type, too few different frames, or flat ones.
    """
    hashes: dict[str, None] = {}
    total = flat = 0
    with path.open("wb") as stream:
        for total, frame in enumerate(frames, 1):  # noqa: B007 -- the count is read below
            _require_frame(frame, size)
            digest = frame_hash(frame)
            if digest not in hashes:
                hashes[digest] = None
                flat += float(frame.std()) < FLAT_LEVELS
                stream.write(np.ascontiguousarray(frame).tobytes())
    if flat * 2 > len(hashes):
        raise SpecError(
            f"{flat} of {len(hashes)} calibration frames are flat (one colour); give photographs of the robot's world"
        )
    if len(hashes) < MIN_FRAMES:
        raise SpecError(
            f"{len(hashes)} different calibration frames of {total} given; INT8 needs at least {MIN_FRAMES}, better 64"
        )
    return FrameStore(path=path, size=size, hashes=tuple(hashes))


def _require_frame(frame: Frame, size: tuple[int, int]) -> None:
    if frame.dtype != np.uint8 or frame.shape != (*size, 3):
        raise SpecError(
            f"calibration frame is {frame.dtype} {frame.shape}, the graph takes uint8 ({size[0]}, {size[1]}, 3): "
            "resize it first"
        )


@dataclass(frozen=True, kw_only=True)
class FrameSplit:
    """Positions of frames by use; the three parts share none.

    Attributes:
        calibration: gives ranges and smoothing.
        sensitivity: held out, for the effect of single nodes.
        evaluation: held out, for the verdict.
    """

    calibration: tuple[int, ...]
    sensitivity: tuple[int, ...]
    evaluation: tuple[int, ...]


def split_frames(count: int, seed: int, *, sensitivity: int = 8, evaluation: int = 16) -> FrameSplit:
    """Divide `count` frames at random: at most an eighth and a quarter for the held-out parts, the rest calibrates."""
    order = [int(position) for position in np.random.default_rng(seed).permutation(count)]
    held = max(2, min(evaluation, count // 4))
    swept = max(2, min(sensitivity, count // 8))
    split = FrameSplit(
        evaluation=tuple(order[:held]),
        sensitivity=tuple(order[held : held + swept]),
        calibration=tuple(order[held + swept :]),
    )
    if len(split.calibration) < WARN_FRAMES:
        log.warning("only %d frames calibrate; %d frames in all would be better", len(split.calibration), 64)
    return split
