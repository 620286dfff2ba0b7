"""What is asked of a running stream: requests from any thread, answers for each frame in one."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.asking.matches import Match
from brixel_edge.runtimes.asking.prototypes import Prototypes
from brixel_edge.runtimes.asking.requests import VIEWS, Choose, Forget, Point, Request, Show, View

DEFAULT_NAME = "object"
# A page that floods us with clicks loses the oldest.
_MOST_WAITING = 64


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is known of one frame.

    Attributes:
        matches: of every prototype, by name.
        current: the thing that clicks mean, and whose heat map is shown.
        view: what is shown beside the frame.
    """

    matches: dict[str, Match]
    current: str
    view: View

    @property
    def heat(self) -> Match | None:
        """The match to be shown as a heat map, if any."""
        return self.matches.get(self.current) if self.view == "heat" else None


class Asking:
    """Prototypes of a run.

    `request` may be called in any thread; everything else is for the one that paints.

    Args:
        prototypes: to begin with.
        queries: points into the first frame.
        save_to: file that is written at every change; None keeps nothing.
        say: told in one line what could not be done.
    """

    def __init__(
        self,
        prototypes: Prototypes | None = None,
        queries: Sequence[Point] = (),
        save_to: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.prototypes = prototypes if prototypes is not None else Prototypes()
        self._queries, self._save_to, self._say = list(queries), save_to, say
        self._waiting: collections.deque[Request] = collections.deque(maxlen=_MOST_WAITING)
        self.current = next(iter(self.prototypes.names), DEFAULT_NAME)
        self.view: View = "heat" if len(self.prototypes) else "colours"
        self._seen: dict[str, dict[str, Any]] = {}

    @property
    def has_requests(self) -> bool:
        """Whether something is to be done."""
        return bool(self._waiting)

    @property
    def is_needed(self) -> bool:
        """Whether frames must be looked at though nobody sees a picture."""
        return bool(self._queries or len(self.prototypes))

    def request(self, request: Request) -> None:
        """Ask for something; it is done at the next frame, or at the next `take_requests`."""
        self._waiting.append(request)

    def take_requests(self, features: FeatureMap) -> None:
        """Do what was asked for; points lie in the frame of these features, which was the one shown."""
        while self._waiting:
            try:
                self._do(self._waiting.popleft(), features)
            except SpecError as error:
                self._say(str(error))

    def answer(self, features: FeatureMap, *, is_counted: bool = True) -> Answer:
        """Find everything in a frame.

        Args:
            features: of it.
            is_counted: False where the frame was answered before.

        Raises:
            SpecError: a query of the command line outside of the frame, or prototypes of another model.
        """
        while self._queries:
            self._do(self._queries.pop(0), features)
        matches = self.prototypes.find(features)
        if is_counted:
            self._count(matches)
        return Answer(matches=matches, current=self.current, view=self.view)

    def summary(self) -> dict[str, dict[str, Any]]:
        """By name: frames, those of them in which it was found, and its last score and box; plain JSON values."""
        return {name: dict(entry) for name, entry in self._seen.items()}

    def _count(self, matches: dict[str, Match]) -> None:
        for name, match in matches.items():
            entry = self._seen.setdefault(name, {"frames": 0, "found": 0})
            entry["frames"] += 1
            entry["found"] += match.box is not None
            entry["score"], entry["threshold"] = round(match.score, 4), round(match.threshold, 4)
            entry["box"] = None if match.box is None else [round(side, 1) for side in match.box]

    def _do(self, request: Request, features: FeatureMap) -> None:
        if isinstance(request, Point):
            self._point(request, features)
        elif isinstance(request, Choose):
            self.current = request.name or self._new_name()
        elif isinstance(request, Show):
            self.view = request.view or VIEWS[1 - VIEWS.index(self.view)]
        else:
            self._forget(request)

    def _point(self, point: Point, features: FeatureMap) -> None:
        name = point.name or self.current
        is_first = not len(self.prototypes)
        self.prototypes.add(name, features, x=point.x, y=point.y, is_negative=point.is_negative)
        self.current = name
        if is_first:
            self.view = "heat"
        self._save()

    def _forget(self, request: Forget) -> None:
        name = request.name or self.current
        self.prototypes.remove(name)
        self._seen.pop(name, None)
        if self.current == name:
            self.current = next(reversed(self.prototypes.names), DEFAULT_NAME)
        self._save()

    def _new_name(self) -> str:
        if DEFAULT_NAME not in self.prototypes:
            return DEFAULT_NAME
        number = 2
        while f"{DEFAULT_NAME} {number}" in self.prototypes:
            number += 1
        return f"{DEFAULT_NAME} {number}"

    def _save(self) -> None:
        if self._save_to is None or not len(self.prototypes):
            return
        try:
            self.prototypes.save(self._save_to)
        except BundleError as error:
            # The stream is worth more than the file.
            self._say(str(error))
