"""One sweep: what each node alone, in INT8, does to the outputs.

After smoothing these effects add up: predicted loss of cosine = sum of the single losses, within about 5 % of what is
measured. So the curve from all-integer to all-float comes from this one sweep. (Before smoothing it does not hold,
and leaving one out saturates; hence one at a time, and after smoothing.) What precedes a node is the same for all, so
it is run once for every stretch of nodes and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brixel_edge.calib.cells import compared_cells
from brixel_edge.calib.choice.cutting import first_part, live_tensors, second_part, size_bytes
from brixel_edge.calib.engines import OrtEngine, Outputs
from brixel_edge.calib.frames import Image
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.lowering.qdq import qdq_graph
from brixel_edge.calib.ranges.scales import IntegerLayer
from brixel_edge.errors import BuildError
from brixel_edge.machine.progress import progress
from brixel_edge.proof.parity import mean_cosine, squared_error

STRETCH = 6  # nodes that share one kept prefix
MAX_KEPT_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one node in INT8 does, per output.

    Attributes:
        loss: 1 - mean cosine of a cell.
        nmse: squared error by squared norm.
    """

    loss: Mapping[str, float]
    nmse: Mapping[str, float]


def sweep(
    smoothed: Graph, integers: Sequence[IntegerLayer], frames: Sequence[Image], *, threads: int = 2
) -> dict[str, Effect]:
    """Measure every layer alone.

    Args:
        smoothed: float graph after smoothing.
        integers: the candidates, in running order.
        frames: held-out uint8 (1, H, W, 3) images.
        threads: of inference.

    Returns:
        layer name -> its effect.
    """
    image = smoothed.image_name
    reference = _cells_over(smoothed, [{image: frame} for frame in frames], threads)
    order = {node.name: position for position, node in enumerate(smoothed.nodes)}
    ranked = sorted(integers, key=lambda entry: order[entry.layer.name])
    effects: dict[str, Effect] = {}
    stretches = _stretches(smoothed, ranked, frames, order, threads)
    for entry, suffix, kept in progress(stretches, "sensitivity", total=len(ranked)):
        candidate = _cells_over(qdq_graph(suffix, [entry]), kept, threads)
        effects[entry.layer.name] = _effect(entry, reference, candidate)
    return effects


def _cells_over(graph: Graph, feeds: Iterable[Mapping[str, NDArray]], threads: int) -> list[Outputs]:
    """Compared cells of a graph's outputs; its session is gone afterwards, as two at once would not fit at 1024 px."""
    engine = OrtEngine(graph.serialized(), threads=threads, has_arena=False)
    outputs = (engine.run_named(feed) for feed in feeds)
    return [{name: compared_cells(name, values[name]) for name in graph.float_outputs} for values in outputs]


def _effect(entry: IntegerLayer, reference: Sequence[Outputs], candidate: Sequence[Outputs]) -> Effect:
    loss, nmse = {}, {}
    for name in reference[0]:
        if name not in candidate[0]:  # made before this stretch, so untouched
            loss[name], nmse[name] = 0.0, 0.0
            continue
        a, b = [cells[name] for cells in reference], [cells[name] for cells in candidate]
        if not all(np.isfinite(cells).all() for cells in b):
            raise BuildError(
                f"{entry.layer.name} in INT8 gives NaN or Inf in {name}; the float graph is broken: export it again"
            )
        loss[name], nmse[name] = 1 - mean_cosine(a, b), squared_error(a, b)
    return Effect(loss=loss, nmse=nmse)


def _stretches(
    graph: Graph, ranked: Sequence[IntegerLayer], frames: Sequence[Image], order: Mapping[str, int], threads: int
) -> Iterator[tuple[IntegerLayer, Graph, list[dict[str, NDArray]]]]:
    """Every layer with the graph from its stretch on and that graph's inputs for every frame."""
    image = graph.image_name
    for first in range(0, len(ranked), STRETCH):
        stretch = ranked[first : first + STRETCH]
        start = order[stretch[0].layer.name]
        live = live_tensors(graph, start)
        if size_bytes(graph, live) * len(frames) > MAX_KEPT_BYTES:
            suffix, kept = graph, [{image: frame} for frame in frames]
        else:
            suffix, kept = second_part(graph, start, live), _run_prefix(graph, start, live, frames, threads)
        for entry in stretch:
            yield entry, suffix, kept


def _run_prefix(
    graph: Graph, start: int, live: list[str], frames: Sequence[Image], threads: int
) -> list[dict[str, NDArray]]:
    engine = OrtEngine(first_part(graph, start, live).serialized(), threads=threads, has_arena=False)
    image = graph.image_name
    kept = []
    for frame in frames:
        values = {image: frame, **engine.run(frame)}
        kept.append({name: values[name] for name in live})
    return kept
