"""What there is to evaluate on: pictures with labels, in two splits, read only when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import DataError
from brixel_edge.model.head_spec import Colour

Kind = Literal["segmentation", "depth", "normals"]
Label = NDArray[np.uint8] | NDArray[np.float32]

IGNORED = 255  # of a segmentation: pixels without a class


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled picture.

    Attributes:
        name: unique within its data set, for messages and for the cache.
        read_frame: (H, W, 3) uint8 BGR.
        read_label: of the same height and width: classes as uint8 with `IGNORED`; depth as float32 [m], 0 where there
            is none; normals as float32 (H, W, 3) of length 1 in the camera's axes (x right, y down, z away), 0 where
            there is none.
    """

    name: str
    read_frame: Callable[[], NDArray[np.uint8]]
    read_label: Callable[[], Label]


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """A data set for one task.

    Attributes:
        kind: of label.
        train: the probe is trained on these.
        test: and scored on these.
        classes: names, of a segmentation.
        depth_range_m: (nearest, farthest) depth that counts [m]; predictions are clipped to it.
        colours: of the classes, (R, G, B), where the publisher has some.
    """

    kind: Kind
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    classes: tuple[str, ...] = ()
    depth_range_m: tuple[float, float] = (1e-3, 10.0)
    colours: tuple[Colour, ...] = ()

    def __post_init__(self) -> None:
        for split, samples in (("training", self.train), ("test", self.test)):
            if not samples:
                raise DataError(f"there are no {split} pictures with labels; check --data against the layout")

    def limited(self, count: int | None) -> LabelledData:
        """At most `count` pictures of each split, evenly spread over it."""
        if count is None:
            return self
        return replace(self, train=_spread(self.train, count), test=_spread(self.test, count))


def _spread(samples: tuple[Sample, ...], count: int) -> tuple[Sample, ...]:
    if len(samples) <= count:
        return samples
    return tuple(samples[i * len(samples) // count] for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video of which some frames have object masks; the first of them is given to the propagation.

    Attributes:
        name: of the sequence.
        frames: picture files, in order.
        masks: mask files, one for each frame.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


def digest_of(frame: NDArray[np.uint8]) -> str:
    """Names a picture by its pixels, for the cache."""
    return hashlib.sha256(np.ascontiguousarray(frame).tobytes() + str(frame.shape).encode()).hexdigest()
