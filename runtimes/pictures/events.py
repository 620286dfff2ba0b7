"""What a user does in a window; plain values, so that they may come from another process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Click:
    """A press of the mouse.

    Attributes:
        x: of the picture [px].
        y: of the picture [px].
        is_negative: by the right button.
    """

    x: float
    y: float
    is_negative: bool


@dataclass(frozen=True, kw_only=True)
class KeyPress:
    """A press of a key that prints."""

    key: str


WindowEvent = Click | KeyPress
