"""What a gate's figures may be on other photographs of the same kind: lower bounds, by resampling.

The cells of one photograph err together, so whole photographs (and whole stretches of a film) are drawn, not cells;
drawing cells would call a bound sure that the next photograph breaks. Photographs of another source are harder than a
redrawing can show: single ones lose ten times as much as their neighbours. So the worst percent gets headroom, which
was measured by leaving whole sources out (`benchmarks/int8_sources.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brixel_edge.proof.parity import WORST_PERCENT

CONFIDENCE = 0.95
DRAWS = 500
# What the worst percent loses on a source left out, over the bound from all others: 2.4 at most on 19 of 20 sources.
ELSEWHERE = 3.0


@dataclass(frozen=True, kw_only=True)
class LowerBounds:
    """What figures exceed with a confidence.

    Attributes:
        mean: cosine of a cell, mean.
        p01: cosine that 1 % of the cells fall below.
        p01_elsewhere: the same on sources that the photographs do not show, with headroom for that.
        agreement: of a linear probe, share of cells.
        confidence: share of the draws that are above each bound.
        photographs: independent ones that were drawn from; a stretch of a film counts as one.
    """

    mean: float
    p01: float
    p01_elsewhere: float
    agreement: float
    confidence: float
    photographs: int


def lower_bounds(
    cosines: Sequence[NDArray[np.floating]],
    agreements: Sequence[float],
    groups: Sequence[int],
    *,
    seed: int,
    confidence: float = CONFIDENCE,
) -> LowerBounds:
    """Bootstrap over groups of photographs.

    Args:
        cosines: of the cells of every photograph, (n,) each.
        agreements: share of the cells of every photograph on which a probe says the same.
        groups: number of the group that a photograph belongs to; photographs of one are drawn together.
        seed: of the draws.
        confidence: of each bound.
    """
    members = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(members.max()) + 1
    sizes = np.array([len(cells) for cells in cosines])
    totals = {"n": sizes, "cosine": np.array([cells.sum() for cells in cosines]), "same": sizes * np.array(agreements)}
    summed = {name: np.bincount(members, values, count) for name, values in totals.items()}
    values = np.concatenate([np.asarray(cells, np.float64) for cells in cosines])
    order = np.argsort(values, kind="stable")
    ranked, owner = values[order], np.repeat(members, sizes)[order]
    rng = np.random.default_rng(seed)
    found = np.empty((DRAWS, 3))
    for draw in range(DRAWS):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        cells = times @ summed["n"]
        below = np.cumsum(times[owner])
        worst = ranked[np.searchsorted(below, WORST_PERCENT / 100 * cells)]
        found[draw] = times @ summed["cosine"] / cells, worst, times @ summed["same"] / cells
    mean, p01, agreement = (float(value) for value in np.quantile(found, 1 - confidence, axis=0))
    return LowerBounds(
        mean=mean,
        p01=p01,
        p01_elsewhere=1 - ELSEWHERE * (1 - p01),
        agreement=agreement,
        confidence=confidence,
        photographs=count,
    )
