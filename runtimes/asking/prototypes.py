"""Things that a user pointed at, by name, and where they are in other maps of the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from brixel_edge.errors import SpecError
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.similarity import cosines
from brixel_edge.runtimes.asking.matches import Match, automatic_threshold, match_from_cosines
from brixel_edge.runtimes.asking.prototype import MOST_POINTS, Prototype, empty_prototype
from brixel_edge.runtimes.asking.prototype_file import read_prototypes, write_prototypes


class Prototypes:
    """Named prototypes of one feature space: point at things, find them in other maps, keep them in a file.

    The space is that of the first map; maps of another model are refused, those of another engine, precision or size of
    the same model are not.
    """

    def __init__(self) -> None:
        self._space: FeatureSpace | None = None
        self._entries: dict[str, Prototype] = {}

    @property
    def feature_space(self) -> FeatureSpace | None:
        """Of the maps that were pointed at; None before the first."""
        return self._space

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were first pointed at."""
        return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Prototype:
        if name not in self._entries:
            raise SpecError(f"no prototype {name!r}; there are: {', '.join(self._entries) or 'none'}")
        return self._entries[name]

    def __repr__(self) -> str:
        return f"Prototypes({', '.join(self._entries) or 'none'}; {self._space or 'no model yet'})"

    def add(self, name: str, features: FeatureMap, *, x: float, y: float, is_negative: bool = False) -> Prototype:
        """Point at something.

        Args:
            name: a new one, or one that this point refines.
            features: the map of the frame that is pointed into.
            x: [px] of the frame, as y.
            y: see x.
            is_negative: it is not there; takes away what is nearer to this point than to a positive one.

        Raises:
            SpecError: no feature there, a map of another model, or a negative point before any positive one.
        """
        space = self.check(features.feature_space)
        vector = features.at(x=x, y=y).astype(np.float32)
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length <= 0:
            raise SpecError(f"the feature at x={x:g}, y={y:g} has no length; point elsewhere")
        unit = (vector / length)[None]
        old = self._entries.get(name) or empty_prototype(name, len(vector))
        if is_negative and not len(old.positive):
            raise SpecError(f"{name!r} has no positive point yet; say first where it is, then where it is not")
        if sum(len(entry.positive) + len(entry.negative) for entry in self._entries.values()) >= MOST_POINTS:
            raise SpecError(f"there are {MOST_POINTS} points already; forget some first")
        if is_negative:
            entry = replace(old, negative=np.concatenate([old.negative, unit]))
        else:
            own = automatic_threshold(cosines(features.values, unit)[0])
            automatic = np.append(old.automatic, np.float32(own))
            entry = replace(old, positive=np.concatenate([old.positive, unit]), automatic=automatic)
        self.put(entry, space)
        return entry

    def put(self, entry: Prototype, space: FeatureSpace) -> None:
        """Take a whole prototype, in place of one of the same name.

        Raises:
            SpecError: of another model than those here.
        """
        self._space = self.check(space)
        self._entries[entry.name] = entry

    def set_threshold(self, name: str, threshold: float | None) -> None:
        """Choose the cosine from which on a cell belongs to a prototype; None leaves it to its points.

        Raises:
            SpecError: no such prototype, or no cosine.
        """
        self._entries[name] = replace(self[name], chosen_threshold=threshold)

    def remove(self, name: str) -> None:
        """Forget one.

        Raises:
            SpecError: no such prototype.
        """
        del self._entries[self[name].name]

    def check(self, space: FeatureSpace | None) -> FeatureSpace:
        """Refuse features that cannot be compared with those here.

        Raises:
            SpecError: another model's, or of unknown origin.
        """
        if space is None:
            raise SpecError("this map does not say which model made it; take one from open_model or stream")
        if self._space is not None and not self._space.is_that_of(space):
            raise SpecError(
                f"these prototypes were made with {self._space}, this model is {space}: their features cannot be "
                "compared; open that model, or point anew"
            )
        return space

    def find(self, features: FeatureMap) -> dict[str, Match]:
        """Where each prototype is in a map; one matrix product for all of them.

        Raises:
            SpecError: a map of another model.
        """
        if not self._entries:
            return {}
        self.check(features.feature_space)
        entries = list(self._entries.values())
        points = [part for entry in entries for part in (entry.positive, entry.negative)]
        found = cosines(features.values, np.concatenate(points))
        ends = np.cumsum([len(part) for part in points])[:-1]
        parts = np.split(found, ends)
        return {
            entry.name: match_from_cosines(
                entry.name, features, parts[2 * number], parts[2 * number + 1], entry.threshold
            )
            for number, entry in enumerate(entries)
        }

    def save(self, path: str | Path) -> None:
        """Write a `.prototypes` file, whole or not at all.

        Raises:
            SpecError: there is nothing to save, or a file name with another suffix.
            BundleError: it cannot be written there.
        """
        if self._space is None or not self._entries:
            raise SpecError(f"there is no prototype to save in {path}; point at something first")
        write_prototypes(Path(path), list(self._entries.values()), self._space)

    @classmethod
    def load(cls, path: str | Path) -> Prototypes:
        """Read a `.prototypes` file.

        Raises:
            BundleError: it is missing or none.
        """
        entries, space = read_prototypes(Path(path))
        prototypes = cls()
        for entry in entries:
            prototypes.put(entry, space)
        return prototypes
