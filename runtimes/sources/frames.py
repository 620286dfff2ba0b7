"""A frame, and what gives frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        index: counts what the source delivered, from 0.
        t_capture_s: when it was taken, `time.monotonic()` [s]: at the end of the grab, before decoding.
        t_media_s: its place on the source's own time line, from 0 [s].
        capture_s: what decoding took [s].
        is_after_gap: the source was lost and came back just before.
        name: of the file, where each frame is one.
    """

    image: NDArray[np.uint8] = field(repr=False)
    index: int
    t_capture_s: float
    t_media_s: float
    capture_s: float
    is_after_gap: bool = False
    name: str | None = None


class FrameSource(Protocol):
    """Something that gives frames. One thread reads it and closes it."""

    @property
    def description(self) -> str:
        """What the user's string turned out to be, without passwords."""
        ...

    @property
    def is_live(self) -> bool:
        """Whether it goes on when nobody reads."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames a second as the source announces them; None if it does not."""
        ...

    @property
    def skipped(self) -> int:
        """Frames or files that could not be read."""
        ...

    def read(self) -> Frame | None:
        """The next frame, waiting for it; None at the end.

        Raises:
            SourceError: lost for good.
            BundleError: the files turn out not to be what they should be.
        """
        ...

    def interrupt(self) -> None:
        """Make a waiting `read` in another thread return soon."""
        ...

    def close(self) -> None:
        """Let go of the camera or file."""
        ...
