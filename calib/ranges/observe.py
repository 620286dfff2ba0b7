"""Streaming ranges: what goes through the tensors that INT8 would round, in memory that no number of images changes.

The graph measures itself (see `export.graph.measuring`): extremes by channel, and a few rows gathered at random. Even
and odd images are kept apart: one half proposes, the other judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from brixel_edge.calib.frames import Image
from brixel_edge.calib.graph import Graph, serialized
from brixel_edge.calib.layers import Layer
from brixel_edge.errors import BuildError
from brixel_edge.export.graph.measuring import Measurement, Statistics, measuring_graph

PATCH_ROWS = 64  # sampled per image and tensor; the prefix rows are always taken
MAX_PREFIX = 16
MAX_ROWS = 256  # kept of a tensor and half of the images
Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Watched:
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
    """

    low: Array
    high: Array
    samples: tuple[Array, Array] = field(repr=False)

    def amax(self, half: int | None = None) -> Array:
        """Per-channel largest magnitude, (C,), of one half of the images or of all."""
        chosen = slice(None) if half is None else slice(half, half + 1)
        return np.maximum(np.abs(self.low[chosen]), np.abs(self.high[chosen])).max(0)


def tensors_of(graph: Graph, layers: Sequence[Layer], further: Iterable[str] = ()) -> tuple[Watched, ...]:
    """The inputs of all candidate layers, and `further` channel-first tensors (outputs of convolutions)."""
    patches = next(
        (int(np.prod(graph.shapes[layer.output][2:])) for layer in layers if layer.excluded == "patch embedding"), 0
    )
    wanted: dict[str, Watched] = {}
    for layer in layers:
        if layer.excluded or layer.x in wanted:
            continue
        shape = graph.shapes[layer.x]
        prefix = (
            shape[-2] - patches if layer.is_linear and len(shape) > 1 and 0 < shape[-2] - patches <= MAX_PREFIX else 0
        )
        axis = len(shape) - 1 if layer.is_linear else 1
        wanted[layer.x] = Watched(name=layer.x, shape=shape, channel_axis=axis, rows=layer.is_linear, prefix=prefix)
    for name in further:
        wanted.setdefault(name, Watched(name=name, shape=graph.shapes[name], channel_axis=1))
    return tuple(wanted.values())


def observe(
    graph: Graph,
    tensors: Sequence[Watched],
    frames: Iterable[Image],
    *,
    seed: int,
    threads: int = 2,
) -> dict[str, Stats]:
    """Run the graph over frames and gather the statistics of `tensors`.

    Args:
        graph: float graph; it is not changed.
        tensors: what to watch.
        frames: uint8 (1, H, W, 3) each; read once.
        seed: of the sampled rows.
        threads: of inference.

    Raises:
        BuildError: NaN or Inf in a watched tensor or in an output.
    """
    layouts = sorted({(tensor.row_count, tensor.prefix) for tensor in tensors if tensor.rows})
    measurement = _measurement(graph, tensors, layouts, threads)
    gatherers = {tensor.name: _Gatherer(tensor) for tensor in tensors}
    rng = np.random.default_rng(seed)
    for position, frame in enumerate(frames):
        rows = {_row_input(*layout): _row_choice(*layout, rng) for layout in layouts}
        keys = {name: rng.random(len(chosen)) for name, chosen in rows.items()}
        outputs = measurement.of({graph.image_name: frame, **rows})
        for name in graph.float_outputs:
            _require_finite(outputs[name], f"output {name}", position)
        for tensor in tensors:
            gatherers[tensor.name].add(outputs, position, keys.get(_row_input(tensor.row_count, tensor.prefix)))
    return {name: gatherer.result() for name, gatherer in gatherers.items()}


def _row_input(count: int, prefix: int) -> str:
    """The input that says which rows to take; tensors of one layout share it."""
    return f"rows_{count}_{prefix}"


def _row_choice(count: int, prefix: int, rng: np.random.Generator) -> NDArray[np.int64]:
    patches = prefix + rng.permutation(count - prefix)[:PATCH_ROWS]
    return np.concatenate([np.arange(prefix), np.sort(patches)]).astype(np.int64)


def _require_finite(values: NDArray, what: str, position: int) -> None:
    if not np.isfinite(values).all():
        raise BuildError(
            f"{what} holds NaN or Inf on calibration frame {position}; the float graph is broken: export it again"
        )


def _measurement(
    graph: Graph, tensors: Sequence[Watched], layouts: Iterable[tuple[int, int]], threads: int
) -> Measurement:
    constants: dict[str, NDArray[np.int64]] = {}
    statistics = {tensor.name: _statistics(tensor, graph.opset, constants) for tensor in tensors}
    model = measuring_graph(
        graph.model,
        statistics,
        constants=[numpy_helper.from_array(value, name) for name, value in constants.items()],
        inputs=[
            helper.make_tensor_value_info(_row_input(*layout), onnx.TensorProto.INT64, [None]) for layout in layouts
        ],
        kept=graph.outputs,
    )
    return Measurement(serialized(model), threads=threads, is_optimized=True)


def _statistics(tensor: Watched, opset: int, constants: dict[str, NDArray[np.int64]]) -> Statistics:
    """Nodes for the extremes and rows of a tensor; adds the constants that they read."""
    name, outputs = tensor.name, [f"{tensor.name}?low", f"{tensor.name}?high"]
    axes = [axis for axis in range(len(tensor.shape)) if axis != tensor.channel_axis]
    nodes: list[onnx.NodeProto] = []
    for op, output in zip(("ReduceMin", "ReduceMax"), outputs, strict=True):
        if opset >= 18:  # the axes became an input
            constants[f"{output}.axes"] = np.array(axes, np.int64)
            nodes.append(helper.make_node(op, [name, f"{output}.axes"], [output], name=output, keepdims=0))
        else:
            nodes.append(helper.make_node(op, [name], [output], name=output, axes=axes, keepdims=0))
    if tensor.rows:
        flat, rows = f"{name}?flat", f"{name}?rows"
        constants[f"{flat}.shape"] = np.array([-1, tensor.channels], np.int64)
        nodes.append(helper.make_node("Reshape", [name, f"{flat}.shape"], [flat], name=flat))
        taken = _row_input(tensor.row_count, tensor.prefix)
        nodes.append(helper.make_node("Gather", [flat, taken], [rows], name=rows, axis=0))
        outputs.append(rows)
    return Statistics(nodes=nodes, outputs=outputs)


class _Gatherer:
    """Accumulates the statistics of one tensor over images."""

    def __init__(self, tensor: Watched) -> None:
        self.tensor = tensor
        shape = (2, tensor.channels)
        self.low, self.high = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)
        self.rows = [np.empty((0, tensor.channels), np.float32) for _ in range(2)]
        self.keys = [np.empty(0) for _ in range(2)]

    def add(self, outputs: Mapping[str, Array], position: int, keys: NDArray[np.float64] | None) -> None:
        name, half = self.tensor.name, position % 2
        low, high = outputs[f"{name}?low"], outputs[f"{name}?high"]
        _require_finite(np.concatenate([low, high]), f"tensor {name}", position)
        np.minimum(self.low[half], low, out=self.low[half])
        np.maximum(self.high[half], high, out=self.high[half])
        if self.tensor.rows and keys is not None:
            rows = outputs[f"{name}?rows"]
            _require_finite(rows, f"tensor {name}", position)
            self._keep_rows(rows, keys, half)

    def _keep_rows(self, rows: Array, keys: NDArray[np.float64], half: int) -> None:
        """Reservoir: the rows with the smallest random keys stay, so every row had the same chance."""
        keys = np.concatenate([self.keys[half], keys])
        kept = np.sort(np.argpartition(keys, MAX_ROWS)[:MAX_ROWS]) if len(keys) > MAX_ROWS else slice(None)
        self.rows[half] = np.concatenate([self.rows[half], rows])[kept]
        self.keys[half] = keys[kept]

    def result(self) -> Stats:
        if not np.isfinite(self.low).all():
            raise BuildError("observing needs at least two frames; give more calibration frames")
        return Stats(low=self.low, high=self.high, samples=(self.rows[0], self.rows[1]))
