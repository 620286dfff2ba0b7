"""What a row costs on this machine: milliseconds of one picture, all rows measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brixel_edge.evaluation.sources import FeatureKind, Kernel, Size

ROUNDS = 7


def milliseconds(
    kinds: Sequence[FeatureKind], frame: NDArray[np.uint8], view: Size, kernel: Kernel
) -> dict[str, float]:
    """Median time of each row's map, from a picture in memory, resizing included.

    Rows take turns, so that a disturbance from outside hits all alike. Rows that share a source share its time.
    """
    times: dict[int, list[float]] = {id(kind.source): [] for kind in kinds}
    sources = {id(kind.source): kind.source for kind in kinds}
    for source in sources.values():
        source.map_of(frame, view, kernel)
    for _ in range(ROUNDS):
        for key, source in sources.items():
            start = time.perf_counter()
            source.map_of(frame, view, kernel)
            times[key].append(1e3 * (time.perf_counter() - start))
    return {kind.name: statistics.median(times[id(kind.source)]) for kind in kinds}
