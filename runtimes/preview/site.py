"""What the page shows and what it may change; knows nothing of HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from brixel_edge.errors import SpecError
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.asking.asking import Answer
from brixel_edge.runtimes.asking.prototype import LONGEST_NAME
from brixel_edge.runtimes.asking.requests import VIEWS, Choose, Forget, Point, Request, Show
from brixel_edge.runtimes.preview.head_legend import head_legend
from brixel_edge.runtimes.preview.slot import PictureSlot

_WELL = ("opening", "running", "degraded", "ended")


class Site:
    """The run as the page sees it; `show` is for the thread that paints, the rest for any.

    Args:
        request: takes what is asked of the run.
        report: gives the run's figures as JSON values.
    """

    def __init__(self, request: Callable[[Request], None], report: Callable[[], dict[str, Any]]) -> None:
        self.slot = PictureSlot()
        self._request, self._report = request, report
        self._answer: Answer | None = None
        self._features: FeatureMap | None = None
        self._depth_range_m: tuple[float, float] | None = None
        self._fps = 0.0

    def note(
        self, answer: Answer, features: FeatureMap, fps: float, depth_range_m: tuple[float, float] | None = None
    ) -> None:
        """Take what is known of the newest frame.

        Args:
            answer: what was found in it.
            features: of it.
            fps: of the last second.
            depth_range_m: nearest and farthest depth that has a colour of its own [m], of a depth head.
        """
        self._answer, self._features, self._fps, self._depth_range_m = answer, features, fps, depth_range_m

    @property
    def matches(self) -> dict[str, dict[str, Any]]:
        """By prototype: score, threshold, box and whether it is there, in the newest frame."""
        matches = self._answer.matches if self._answer is not None else {}
        return {
            name: {
                "score": round(match.score, 4),
                "threshold": round(match.threshold, 4),
                "found": match.box is not None,
                "box": None if match.box is None else [round(side, 1) for side in match.box],
            }
            for name, match in matches.items()
        }

    def report(self) -> dict[str, Any]:
        """The figures of the run so far."""
        return self._report()

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and state and reason of each source."""
        health = self._report()["health"]
        return health["state"] in _WELL, health

    def state(self) -> dict[str, Any]:
        """Everything that the page writes beside the pictures."""
        report, answer, features = self._report(), self._answer, self._features
        shown = ("model", "engine", "backend", "precision", "proof", "source", "notice", "processed", "dropped", "gaps")
        stages = {
            name: {key: _finite(value) for key, value in stats.items()} for name, stats in report["stages"].items()
        }
        return {
            **{name: report[name] for name in shown},
            "stages": stages,
            "peak_memory_bytes": report["peak_memory_bytes"],
            "health": report["health"],
            "fps": round(self._fps or report["fps"], 2),
            "viewers": self.slot.viewers,
            "view": answer.view if answer is not None else "colours",
            "current": answer.current if answer is not None else None,
            "prototypes": self.matches,
            "head": None if features is None else head_legend(features, self._depth_range_m),
        }

    def change(self, record: object) -> None:
        """Ask the run for something: `{"point": ...}`, `{"choose": ...}`, `{"forget": ...}` or `{"view": ...}`.

        Raises:
            SpecError: no such request.
        """
        self._request(self._read(record))

    def _read(self, record: object) -> Request:
        if isinstance(record, dict) and len(record) == 1:
            ((kind, value),) = record.items()
            if kind == "view" and value in VIEWS:
                return Show(view=value)
            if kind == "choose" and (value is None or _is_name(value)):
                return Choose(name=value)
            if kind == "forget" and _is_name(value):
                return Forget(name=value)
            if kind == "point" and isinstance(value, dict):
                return self._point(value)
        raise SpecError("a request is one of point, choose, forget, view; see the page's own")

    def _point(self, record: dict[str, Any]) -> Point:
        """X and y are parts of the frame's width and height."""
        x, y, name, is_negative = (record.get(key) for key in ("x", "y", "name", "negative"))
        if self._features is None:
            raise SpecError("there is no frame yet; wait for one")
        if x is None or y is None or not (_is_share(x) and _is_share(y)) or not (name is None or _is_name(name)):
            raise SpecError(f"point x={x!r}, y={y!r}, name={name!r}: x and y are parts of the frame from 0 to 1")
        height, width = self._features.frame_size
        return Point(x=x * width - 0.5, y=y * height - 0.5, name=name, is_negative=is_negative is True)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value.strip()) > 0 and len(value) <= LONGEST_NAME and value.isprintable()


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return round(value, 3) if math.isfinite(value) else None
