"""From kinds of feature to rows of the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from brixel_edge.evaluation.metrics import Scores
from brixel_edge.evaluation.results import Row
from brixel_edge.evaluation.sources import EngineSource, FeatureKind, FeatureSource, Size


def by_source(kinds: Iterable[FeatureKind]) -> list[tuple[FeatureSource, list[FeatureKind]]]:
    """Kinds that share a source side by side, so that its features are computed once."""
    groups: dict[int, tuple[FeatureSource, list[FeatureKind]]] = {}
    for kind in kinds:
        groups.setdefault(id(kind.source), (kind.source, []))[1].append(kind)
    return list(groups.values())


def row_of(kind: FeatureKind, view: Size, milliseconds: float, scores: Sequence[Scores]) -> Row:
    """The row of a kind: what it is fed, what that costs, what its probes score."""
    source = kind.source
    dim, height, width = source.shape(view)
    return Row(
        name=kind.name,
        input_size=source.input_size(view),
        grid=(height * kind.enlarge, width * kind.enlarge),
        dim=dim,
        gflop=source.gflop(view),
        milliseconds=milliseconds,
        scores=tuple(scores),
        engine=(source.file, source.backend) if isinstance(source, EngineSource) else None,
    )
