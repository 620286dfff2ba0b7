"""What calibration found of one float graph, as a file to read: ranges, smoothing, bias shifts.

Together with a plan it is all that a lowering needs. `calib.json` names the sha256 of the float graph and of every
frame that calibrated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.calib.frames import Image
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import Layer, find_layers, result_tensor
from brixel_edge.calib.ranges.groups import find_groups
from brixel_edge.calib.ranges.observe import Stats, observe, tensors_of
from brixel_edge.calib.ranges.scales import IntegerLayer, Range, bias_shift, range_of
from brixel_edge.calib.ranges.smooth import (
    ALPHAS,
    Smoothing,
    apply_smoothing,
    choose_smoothing,
    matrix,
    smoothed_input,
)
from brixel_edge.errors import BundleError
from brixel_edge.machine.files import write_atomically
from brixel_edge.machine.progress import progress

CALIBRATION_VERSION = 1
Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Ranges and rescalings of one float graph.

    Attributes:
        graph_sha256: of the float graph's file.
        frame_hashes: sha256 of the frames that calibrated.
        seed: of the sampled rows.
        ranges: tensor of the float graph -> its range after smoothing.
        smoothing: one decision a group.
        shifts: linear -> what INT8 adds to its bias, (N,).
    """

    graph_sha256: str
    frame_hashes: tuple[str, ...] = field(repr=False)
    seed: int
    ranges: Mapping[str, Range]
    smoothing: tuple[Smoothing, ...]
    shifts: Mapping[str, Array] = field(repr=False)

    def smoothed(self, graph: Graph) -> Graph:
        """A copy of the float graph with the outliers moved."""
        return apply_smoothing(graph, self.smoothing)

    def integer_layers(self, layers: Iterable[Layer]) -> tuple[IntegerLayer, ...]:
        """What a lowering needs to know of `layers`."""
        smoothing = {entry.group.x: entry for entry in self.smoothing}
        return tuple(
            IntegerLayer(
                layer=layer,
                x=smoothed_input(layer, smoothing),
                range=self.ranges[layer.x],
                shift=self.shifts.get(layer.name),
            )
            for layer in layers
        )

    def save(self, path: Path) -> None:
        """Write the readable file."""
        record = {
            "calibration_version": CALIBRATION_VERSION,
            "graph_sha256": self.graph_sha256,
            "seed": self.seed,
            "frames_sha256": list(self.frame_hashes),
            "ranges": {name: asdict(value) for name, value in self.ranges.items()},
            "smoothing": [
                {
                    "x": entry.group.x,
                    "kind": entry.group.kind,
                    "alpha": entry.alpha,
                    "gain_db": entry.gain_db,
                    "scale": None if entry.alpha is None else _plain(entry.scale),
                }
                for entry in self.smoothing
            ],
            "bias_shifts": {name: _plain(shift) for name, shift in self.shifts.items()},
        }
        write_atomically(path, json.dumps(record, indent=1) + "\n")


def load_calibration(
    path: Path, graph: Graph, graph_sha256: str, frame_hashes: Sequence[str], *, seed: int
) -> Calibration:
    """Read what `Calibration.save` wrote.

    Args:
        path: the file.
        graph: the float graph.
        graph_sha256: of its file.
        frame_hashes: of the calibrating frames at hand.
        seed: of the sampled rows.

    Raises:
        BundleError: not such a file, or a stale one: another graph, other frames, another seed.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _require_fresh(path, record, graph_sha256, frame_hashes, seed)
        groups = {group.x: group for group in find_groups(graph, find_layers(graph))}
        return Calibration(
            graph_sha256=graph_sha256,
            frame_hashes=tuple(record["frames_sha256"]),
            seed=seed,
            ranges={name: Range(**value) for name, value in record["ranges"].items()},
            smoothing=tuple(
                Smoothing(
                    group=groups[entry["x"]],
                    alpha=entry["alpha"],
                    gain_db=entry["gain_db"],
                    scale=np.ones(graph.shapes[entry["x"]][-1], np.float32)
                    if entry["scale"] is None
                    else np.array(entry["scale"], np.float32),
                )
                for entry in record["smoothing"]
            ),
            shifts={name: np.array(shift, np.float32) for name, shift in record["bias_shifts"].items()},
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is not a readable calibration ({error!r}); delete it to calibrate again") from error


def _require_fresh(
    path: Path, record: dict[str, Any], graph_sha256: str, frame_hashes: Sequence[str], seed: int
) -> None:
    found = {
        "version": (record["calibration_version"], CALIBRATION_VERSION),
        "graph": (record["graph_sha256"][:12], graph_sha256[:12]),
        "seed": (record["seed"], seed),
    }
    for what, (recorded, wanted) in found.items():
        if recorded != wanted:
            raise BundleError(
                f"{path} is stale: its {what} is {recorded}, here it is {wanted}; delete it to calibrate again"
            )
    given, known = set(frame_hashes), set(record["frames_sha256"])
    if given != known:
        raise BundleError(
            f"{path} is stale: {len(given - known)} of {len(given)} frames are new and {len(known - given)} of its "
            f"{len(known)} are gone; delete it to calibrate again"
        )


def calibrate(
    graph: Graph,
    graph_sha256: str,
    frames: Iterable[Image],
    frame_hashes: Sequence[str],
    *,
    seed: int,
    threads: int = 2,
    alphas: Sequence[float] = ALPHAS,
) -> Calibration:
    """One pass over the frames; then smoothing, ranges and bias shifts, without running the graph again.

    Args:
        graph: the float graph.
        graph_sha256: of its file.
        frames: uint8 (1, H, W, 3) each, read once.
        frame_hashes: theirs.
        seed: of the sampled rows.
        threads: of inference.
        alphas: how far smoothing may go; none leaves the outliers where they are.
    """
    layers = find_layers(graph)
    candidates = [layer for layer in layers if not layer.excluded]
    results = [result_tensor(graph, layer) for layer in candidates if not layer.is_linear]
    counted = progress(frames, "calibrating", total=len(frame_hashes))
    stats = observe(graph, tensors_of(graph, layers, results), counted, seed=seed, threads=threads)
    groups = progress(find_groups(graph, layers), "smoothing")
    smoothing = tuple(choose_smoothing(graph, group, stats[group.x], alphas) for group in groups)
    scales = {name: entry.scale for entry in smoothing for name in entry.group.inputs}
    ranges = {name: range_of(seen.low, seen.high, scales.get(name)) for name, seen in stats.items()}
    shifts = {
        layer.name: _shift(graph, layer, stats[layer.x], scales.get(layer.x), ranges[layer.x])
        for layer in candidates
        if layer.is_linear and layer.bias
    }
    return Calibration(
        graph_sha256=graph_sha256,
        frame_hashes=tuple(frame_hashes),
        seed=seed,
        ranges=ranges,
        smoothing=smoothing,
        shifts=shifts,
    )


def _shift(graph: Graph, layer: Layer, stats: Stats, scale: Array | None, value_range: Range) -> Array:
    rows, weight = np.concatenate(stats.samples), matrix(graph, layer)
    if scale is not None:
        rows, weight = rows / scale, weight * scale[:, None]
    return bias_shift(rows, weight, value_range.scale)


def _plain(values: Array) -> list[float]:
    """Shortest decimals that give the same float32 back."""
    return [float(np.format_float_positional(value, unique=True)) for value in values.astype(np.float32)]
