"""Which frames to calibrate on: a reproducible sample, known by its hashes.

Frames reach this module at the graph's size. Memory does not grow with their number: they lie in a file and are read
one by one. Real frames of the robot's own camera are wanted, dark and overexposed ones too; flat ones give useless
ranges (measured: cosine 0.978 where photographs give 0.999), so a set of those is refused.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError

Image = NDArray[np.uint8]
MIN_FRAMES = 8
FLAT_LEVELS = 3.0  # a frame whose standard deviation is lower shows nothing


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """A frame and when a film showed it.

    Attributes:
        image: uint8 (H, W, 3).
        t_s: its place on the film's time line [s]; None for a photograph.
    """

    image: Image = field(repr=False)
    t_s: float | None = None


def frame_hash(frame: Image) -> str:
    """sha256 over a frame's shape and pixels."""
    return hashlib.sha256(repr(frame.shape).encode() + np.ascontiguousarray(frame).tobytes()).hexdigest()


class FrameFile:
    """Frames of one shape, numbered, in a file of the system's temporary folder that has no name and ends with this."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with its owner
        self._shape: tuple[int, ...] = ()
        weakref.finalize(self, self._file.close)

    def __setitem__(self, number: int, frame: Image) -> None:
        self._shape = frame.shape
        self._file.seek(number * frame.nbytes)
        self._file.write(np.ascontiguousarray(frame).data)

    def __getitem__(self, number: int) -> Image:
        frame = np.empty(self._shape, np.uint8)
        self._file.seek(number * frame.nbytes)
        self._file.readinto(frame.data)
        return frame


def sample_frames(
    source: Iterable[Shot], count: int, seed: int, *, horizon: int = 2000, pool: int = 4
) -> Iterator[Shot]:
    """A diverse, reproducible sample of a stream.

    A seeded reservoir keeps `pool * count` of the first `horizon` frames, on disk; of those, farthest-point selection
    on 8x8 thumbnails takes `count`, because different frames beat more frames.

    Args:
        source: frames, all of one size; may be endless.
        count: frames wanted.
        seed: of the reservoir and of the first frame.
        horizon: how many frames of the source to look at.
        pool: candidates per wanted frame.
    """
    rng = np.random.default_rng(seed)
    kept, times, thumbnails = FrameFile(), dict[int, float | None](), np.empty((0, 192), np.float32)
    for position, shot in enumerate(itertools.islice(source, horizon)):
        slot = position if position < pool * count else int(rng.integers(position + 1))
        if slot < pool * count:
            kept[slot], times[slot] = shot.image, shot.t_s
            thumbnails = np.concatenate([thumbnails[:slot], thumbnail(shot.image)[None], thumbnails[slot + 1 :]])
    for slot in _farthest_points(thumbnails, count, rng) if len(thumbnails) else []:
        yield Shot(image=kept[slot], t_s=times[slot])


def thumbnail(frame: Image) -> NDArray[np.float32]:
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
    """Different frames in one file, read one at a time.

    Attributes:
        hashes: sha256 of every frame, in order.
        times_s: place of every frame on its film's time line [s]; None for photographs.
        given: how many there were, with those that came again.
        flat: how many show one colour.
    """

    file: FrameFile = field(repr=False)
    hashes: tuple[str, ...] = field(repr=False)
    times_s: tuple[float | None, ...] = field(repr=False)
    given: int
    flat: int

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, position: int) -> Image:
        """One frame, uint8 (1, H, W, 3)."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self.file[position][None]

    def pick(self, positions: Iterable[int]) -> Iterator[Image]:
        """The frames at `positions`, one by one."""
        return (self[position] for position in positions)


def store_frames(frames: Iterable[Image], size: tuple[int, int]) -> FrameStore:
    """Keep photographs, uint8 (H, W, 3) each, as `store_shots` does."""
    return store_shots((Shot(image=frame) for frame in frames), size)


def store_shots(shots: Iterable[Shot], size: tuple[int, int]) -> FrameStore:
    """Keep frames, each once.

    Args:
        shots: at the graph's size.
        size: (H, W) of the graph [px].

    Raises:
        SpecError: a frame of another size or type.
    """
    file, times = FrameFile(), dict[str, float | None]()
    given = flat = 0
    for shot in shots:
        frame = shot.image
        _require_frame(frame, size)
        given += 1
        digest = frame_hash(frame)
        if digest not in times:
            file[len(times)] = frame
            times[digest] = shot.t_s
            flat += float(frame.std()) < FLAT_LEVELS
    return FrameStore(file=file, hashes=tuple(times), times_s=tuple(times.values()), given=given, flat=flat)


def require_variety(frames: FrameStore, size: tuple[int, int]) -> None:
    """Refuse frames that no ranges should come from.

    Args:
        frames: given.
        size: (H, W) of the graph [px].

    Raises:
        SpecError: too few different frames, flat ones, or those of another size.
    """
    if frames.flat * 2 > len(frames):
        raise SpecError(
            f"{frames.flat} of {len(frames)} calibration frames are flat (one colour); "
            "give photographs of the robot's world"
        )
    if len(frames) < MIN_FRAMES:
        raise SpecError(
            f"{len(frames)} different calibration frames of {frames.given} given; "
            f"INT8 needs at least {MIN_FRAMES}, better 64"
        )
    _require_frame(frames[0][0], size)


def _require_frame(frame: Image, size: tuple[int, int]) -> None:
    if frame.dtype != np.uint8 or frame.shape != (*size, 3):
        raise SpecError(
            f"calibration frame is {frame.dtype} {frame.shape}, the graph takes uint8 ({size[0]}, {size[1]}, 3): "
            "resize it first"
        )
