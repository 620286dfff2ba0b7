"""What a user asks of a running stream, by command line, window or page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from brixel_edge.errors import SpecError

View = Literal["colours", "heat"]
VIEWS: tuple[View, ...] = ("colours", "heat")


@dataclass(frozen=True, kw_only=True)
class Point:
    """Here it is, or here it is not.

    Attributes:
        x: [px] of the frame.
        y: [px] of the frame.
        name: of the thing; None is the current one.
        is_negative: it is not.
    """

    x: float
    y: float
    name: str | None = None
    is_negative: bool = False


@dataclass(frozen=True, kw_only=True)
class Choose:
    """Points without a name mean this thing from now on; None begins a new one."""

    name: str | None


@dataclass(frozen=True, kw_only=True)
class Forget:
    """A thing is asked for no more; None is the current one."""

    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Show:
    """What is shown beside the frame; None is the other one."""

    view: View | None = None


Request = Point | Choose | Forget | Show


def parse_query(text: str) -> Point:
    """Read `x,y` or `NAME=x,y`.

    Raises:
        SpecError: something else.
    """
    name, has_name, place = text.rpartition("=")
    parts = place.split(",")
    try:
        x, y = (float(part) for part in parts)
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)) or (has_name and not name.strip()):
        raise SpecError(f"--query {text} is not X,Y or NAME=X,Y; for instance --query cup=320,240")
    return Point(x=x, y=y, name=name.strip() or None)
