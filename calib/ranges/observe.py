"""Streaming ranges: what goes through the tensors that INT8 would round, in memory that no number of images changes.

The statistics are computed inside the graph: reductions and a few gathered rows are appended as outputs, so that a
1024 px image costs no more than its own forward pass. (ONNX Runtime's calibrator keeps the tensors themselves and ran
out of 23 GiB on three images of that size.) Even and odd images are kept apart: one half proposes, the other judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from brixel_edge.calib.frames import Frame
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import Layer
from brixel_edge.calib.lowering.engines import OrtEngine
from brixel_edge.errors import BuildError

PATCH_ROWS = 64  # sampled per image and tensor; the prefix rows are always taken
MAX_PREFIX = 16
_HISTOGRAM_BINS = 4096
Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor to observe.

    Attributes:
        name: of the tensor.
        shape: static.
        channel_axis: axis of the channels.
        rows: whether rows of it are sampled (the inputs of linears).
        prefix: class and register rows that precede the patches.
    """

    name: str
    shape: tuple[int, ...]
    channel_axis: int
    rows: bool = False
    prefix: int = 0

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return self.shape[self.channel_axis]

    @property
    def row_count(self) -> int:
        """Number of rows, N."""
        return int(np.prod(self.shape)) // self.channels


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What was seen of one tensor.

    Attributes:
        low: per-channel minimum over even and over odd images, (2, C).
        high: per-channel maximum, (2, C).
        samples: sampled rows of even and of odd images, two arrays (n, C); empty where rows were not asked for.
        histogram: of |sampled values|, in `_HISTOGRAM_BINS` equal bins from 0 to `top`.
        top: upper end of the histogram.
    """

    low: Array
    high: Array
    samples: tuple[Array, Array] = field(repr=False)
    histogram: NDArray[np.int64] = field(repr=False)
    top: float

    def amax(self, half: int | None = None) -> Array:
        """Per-channel largest magnitude, (C,), of one half of the images or of all."""
        chosen = slice(None) if half is None else slice(half, half + 1)
        return np.maximum(np.abs(self.low[chosen]), np.abs(self.high[chosen])).max(0)

    def percentile(self, share: float) -> float:
        """Magnitude that `share` of the sampled values do not exceed; clipping there is for comparison only."""
        reached = np.searchsorted(np.cumsum(self.histogram), share * self.histogram.sum())
        return float((reached + 1) * self.top / _HISTOGRAM_BINS)


def tensors_of(graph: Graph, layers: Sequence[Layer], further: Iterable[str] = ()) -> tuple[Tensor, ...]:
    """The inputs of all candidate layers, and `further` channel-first tensors (outputs of convolutions)."""
    patches = next(
        (int(np.prod(graph.shapes[layer.output][2:])) for layer in layers if layer.excluded == "patch embedding"), 0
    )
    wanted: dict[str, Tensor] = {}
    for layer in layers:
        if layer.excluded or layer.x in wanted:
            continue
        shape = graph.shapes[layer.x]
        prefix = (
            shape[-2] - patches if layer.is_linear and len(shape) > 1 and 0 < shape[-2] - patches <= MAX_PREFIX else 0
        )
        axis = len(shape) - 1 if layer.is_linear else 1
        wanted[layer.x] = Tensor(name=layer.x, shape=shape, channel_axis=axis, rows=layer.is_linear, prefix=prefix)
    for name in further:
        wanted.setdefault(name, Tensor(name=name, shape=graph.shapes[name], channel_axis=1))
    return tuple(wanted.values())


def observe(
    graph: Graph,
    tensors: Sequence[Tensor],
    frames: Iterable[Frame],
    *,
    seed: int,
    threads: int = 2,
    max_rows: int = 256,
) -> dict[str, Stats]:
    """Run the graph over frames and gather the statistics of `tensors`.

    Args:
        graph: float graph; it is not changed.
        tensors: what to watch.
        frames: uint8 (1, H, W, 3) each; read once.
        seed: of the sampled rows.
        threads: of inference.
        max_rows: sampled rows kept per tensor and half of the images.

    Raises:
        BuildError: NaN or Inf in a watched tensor or in an output.
    """
    engine = OrtEngine(_watched(graph, tensors).serialized(), threads=threads, in_file_order=True, has_arena=False)
    gatherers = {tensor.name: _Gatherer(tensor, max_rows) for tensor in tensors}
    rng = np.random.default_rng(seed)
    for position, frame in enumerate(frames):
        rows = {f"rows_{count}_{prefix}": _row_choice(count, prefix, rng) for count, prefix in _row_inputs(tensors)}
        keys = {name: rng.random(len(chosen)) for name, chosen in rows.items()}
        outputs = engine.run_named({engine.image: frame, **rows})
        for name in graph.float_outputs:
            _require_finite(outputs[name], f"output {name}", position)
        for tensor in tensors:
            gatherers[tensor.name].add(outputs, position, keys.get(f"rows_{tensor.row_count}_{tensor.prefix}"))
    return {name: gatherer.result() for name, gatherer in gatherers.items()}


def _row_inputs(tensors: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    return iter(sorted({(tensor.row_count, tensor.prefix) for tensor in tensors if tensor.rows}))


def _row_choice(count: int, prefix: int, rng: np.random.Generator) -> NDArray[np.int64]:
    patches = prefix + rng.permutation(count - prefix)[:PATCH_ROWS]
    return np.concatenate([np.arange(prefix), np.sort(patches)]).astype(np.int64)


def _require_finite(values: NDArray, what: str, position: int) -> None:
    if not np.isfinite(values).all():
        raise BuildError(
            f"{what} holds NaN or Inf on calibration frame {position}; the float graph is broken: export it again"
        )


def _watched(graph: Graph, tensors: Sequence[Tensor]) -> Graph:
    """A copy of the graph with the statistics as further outputs, each computed before the tensor's first use."""
    watched = graph.copy()
    body = watched.model.graph
    for count, prefix in _row_inputs(tensors):
        entry = helper.make_tensor_value_info(f"rows_{count}_{prefix}", onnx.TensorProto.INT64, [None])
        body.input.append(entry)
    for position, tensor in enumerate(tensors):
        nodes = _watching_nodes(watched, tensor, f"watch{position}")
        readers = watched.consumers[tensor.name]
        if readers:
            watched.insert_before(readers[0], *nodes)
        else:
            body.node.extend(nodes)
        for kind in ("low", "high", *(["rows"] if tensor.rows else [])):
            shape = [None, tensor.channels] if kind == "rows" else [tensor.channels]
            body.output.append(helper.make_tensor_value_info(f"{tensor.name}?{kind}", onnx.TensorProto.FLOAT, shape))
    watched.commit()
    return watched


def _watching_nodes(graph: Graph, tensor: Tensor, stem: str) -> list[onnx.NodeProto]:
    axes = [axis for axis in range(len(tensor.shape)) if axis != tensor.channel_axis]
    nodes = [
        _reduce(graph, f"{stem}_low", "ReduceMin", tensor.name, f"{tensor.name}?low", axes),
        _reduce(graph, f"{stem}_high", "ReduceMax", tensor.name, f"{tensor.name}?high", axes),
    ]
    flat = f"{tensor.name}?flat"
    if tensor.rows:
        shape = graph.put(f"{flat}.shape", np.array([-1, tensor.channels], np.int64))
        rows = f"rows_{tensor.row_count}_{tensor.prefix}"
        nodes.append(helper.make_node("Reshape", [tensor.name, shape], [flat], name=f"{stem}_flat"))
        nodes.append(helper.make_node("Gather", [flat, rows], [f"{tensor.name}?rows"], name=f"{stem}_rows", axis=0))
    return nodes


def _reduce(graph: Graph, name: str, op: str, x: str, y: str, axes: list[int]) -> onnx.NodeProto:
    if graph.opset >= 18:  # the axes became an input
        return helper.make_node(op, [x, graph.put(f"{y}.axes", np.array(axes, np.int64))], [y], name=name, keepdims=0)
    return helper.make_node(op, [x], [y], name=name, axes=axes, keepdims=0)


class _Gatherer:
    """Accumulates the statistics of one tensor over images."""

    def __init__(self, tensor: Tensor, max_rows: int) -> None:
        self.tensor, self.max_rows = tensor, max_rows
        shape = (2, tensor.channels)
        self.low, self.high = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)
        self.rows = [np.empty((0, tensor.channels), np.float32) for _ in range(2)]
        self.keys = [np.empty(0) for _ in range(2)]
        self.histogram, self.top = np.zeros(_HISTOGRAM_BINS, np.int64), 0.0

    def add(self, outputs: dict[str, Array], position: int, keys: NDArray[np.float64] | None) -> None:
        name, half = self.tensor.name, position % 2
        low, high = outputs[f"{name}?low"], outputs[f"{name}?high"]
        _require_finite(np.concatenate([low, high]), f"tensor {name}", position)
        np.minimum(self.low[half], low, out=self.low[half])
        np.maximum(self.high[half], high, out=self.high[half])
        if self.tensor.rows and keys is not None:
            rows = outputs[f"{name}?rows"]
            _require_finite(rows, f"tensor {name}", position)
            self._keep_rows(rows, keys, half)
            self._count(np.abs(rows))

    def _keep_rows(self, rows: Array, keys: NDArray[np.float64], half: int) -> None:
        """Reservoir: the rows with the smallest random keys stay, so every row had the same chance."""
        keys = np.concatenate([self.keys[half], keys])
        kept = (
            np.sort(np.argpartition(keys, self.max_rows)[: self.max_rows]) if len(keys) > self.max_rows else slice(None)
        )
        self.rows[half] = np.concatenate([self.rows[half], rows])[kept]
        self.keys[half] = keys[kept]

    def _count(self, magnitudes: Array) -> None:
        """Add to the histogram; its range doubles when a value exceeds it, which merges bins in pairs."""
        peak = float(magnitudes.max())
        self.top = self.top or max(peak, 1e-12)
        while peak > self.top:
            pairs = self.histogram.reshape(-1, 2).sum(1)
            self.histogram = np.concatenate([pairs, np.zeros_like(pairs)])
            self.top *= 2
        self.histogram += np.histogram(magnitudes, _HISTOGRAM_BINS, (0, self.top))[0]

    def result(self) -> Stats:
        if not np.isfinite(self.low).all():
            raise BuildError("observing needs at least two frames; give more calibration frames")
        return Stats(
            low=self.low, high=self.high, samples=(self.rows[0], self.rows[1]), histogram=self.histogram, top=self.top
        )
