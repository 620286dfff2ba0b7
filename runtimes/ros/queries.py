"""What a node is asked for: where in a map is a thing? Prototypes from a file, and a pixel that was pointed at."""

from __future__ import annotations

from collections.abc import Sequence

from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.asking.matches import Match
from brixel_edge.runtimes.asking.prototypes import Prototypes
from brixel_edge.runtimes.ros.parameters import NodeParameters

QUERY_NAME = "query"


class Queries:
    """The things that a node looks for.

    Args:
        parameters: name the file of prototypes and the pixel; the pixel is that of the first map.

    Raises:
        BundleError: no such file of prototypes.
    """

    def __init__(self, parameters: NodeParameters) -> None:
        self._prototypes = Prototypes.load(parameters.prototypes) if parameters.prototypes else Prototypes()
        self._point = parameters.point

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look for."""
        return self._point is None and not len(self._prototypes)

    def check(self, space: FeatureSpace) -> None:
        """Refuse prototypes of another model, before the first image.

        Raises:
            SpecError: they are.
        """
        self._prototypes.check(space)

    def matches(self, features: FeatureMap, threshold: float) -> Sequence[Match]:
        """One answer for each thing, in the order of their names in the file; the pixel comes last.

        Args:
            features: the map.
            threshold: of a pixel's match; 0 takes what its point suggests. Prototypes of a file have their own.

        Raises:
            SpecError: no feature under the pixel, or prototypes of another model.
        """
        if self._point is not None:
            x, y = self._point
            self._prototypes.add(QUERY_NAME, features, x=x, y=y)
            self._point = None
        if QUERY_NAME in self._prototypes:
            self._prototypes.set_threshold(QUERY_NAME, threshold or None)
        return list(self._prototypes.find(features).values())
