"""Smoothing: outlier channels of activations are moved into weights, where a scale per channel absorbs them.

For a group of linears that read one tensor, X W = (X / s)(s W). Dividing by s costs nothing where it folds into what
makes X: a LayerNorm's gain, the V columns of an attention, the up branch of a gated MLP; before fc2 one Mul does it.
How far to go, alpha, is chosen for every group on images that did not propose s, with "off" among the candidates,
because one fixed alpha hurts clean models (measured: cosine 0.99964 without, 0.99945 with alpha chosen on the same
images, 0.99976 so).

Source: Xiao et al., SmoothQuant, equation 4; folding sites and cross-validation are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import Layer, attribute
from brixel_edge.calib.ranges.groups import Group
from brixel_edge.calib.ranges.observe import Stats
from brixel_edge.calib.ranges.scales import LEVELS, MIN_SCALE, rounded_rows, rounded_weight
from brixel_edge.errors import BuildError

Array = NDArray[np.float32]
ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
MIN_GAIN_DB = 1.0
_HALVES = ((0, 1), (1, 0))  # images that propose s, images that judge it
_LIMITS = (1e-3, 1e4)
_MAX_WEIGHT = 1e4  # float16 ends at 65504, and the same graph is lowered to float16 for TensorRT


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """A decision on a group.

    Attributes:
        group: the group.
        alpha: share of the difficulty moved into the weights; None is off.
        gain_db: error on held-out images, off against the best alpha [dB]; taken from `MIN_GAIN_DB` on.
        scale: s, (C,); ones where off.
    """

    group: Group
    alpha: float | None
    gain_db: float
    scale: Array = field(repr=False)


def matrix(graph: Graph, layer: Layer) -> Array:
    """Weight of a linear as (K, N)."""
    weight = graph.array(layer.weight).astype(np.float32)
    return weight if layer.in_axis == 0 else weight.T


def choose_smoothing(graph: Graph, group: Group, stats: Stats, alphas: Sequence[float] = ALPHAS) -> Smoothing:
    """Pick alpha for a group, by the error on the half of the images that did not propose s.

    Args:
        graph: the float graph.
        group: the linears.
        stats: of the tensor that they read.
        alphas: candidates besides "off".
    """
    weight = np.concatenate([matrix(graph, layer) for layer in group.consumers if not layer.excluded], axis=1)
    exact = [rows @ weight for rows in stats.samples]
    ones = np.ones(weight.shape[0], np.float32)

    def error(alpha: float | None) -> float:
        scores = []
        for proposing, judging in _HALVES:
            amax = stats.amax(proposing)
            scale = ones if alpha is None else smoothing_scale(amax, weight, alpha)
            if alpha is not None and float((np.abs(weight).max(1) * scale).max()) > _MAX_WEIGHT:
                return float("inf")
            step = max(float((amax / scale).max()) / LEVELS, MIN_SCALE)
            scores.append(_row_error(exact[judging], stats.samples[judging] / scale, weight * scale[:, None], step))
        return float(np.mean(scores))

    off = Smoothing(group=group, alpha=None, gain_db=0.0, scale=ones)
    errors = {alpha: error(alpha) for alpha in alphas}
    if not errors:
        return off
    best = min(errors, key=lambda alpha: errors[alpha])
    gain = float(10 * np.log10(max(error(None), 1e-30) / max(errors[best], 1e-30)))
    if gain < MIN_GAIN_DB:
        return replace(off, gain_db=gain)
    return Smoothing(group=group, alpha=best, gain_db=gain, scale=smoothing_scale(stats.amax(), weight, best))


def smoothing_scale(amax: Array, weight: Array, alpha: float) -> Array:
    """Scale s of a group: amax_j^alpha / max_n|W_jn|^(1 - alpha), geometric mean 1, clipped.

    Args:
        amax: largest magnitude of every channel of X, (K,).
        weight: W (K, N) of all consumers.
        alpha: share of the difficulty that goes to the weights.
    """
    reach = np.abs(weight).max(1)
    live = (amax > 0) & (reach > 0)  # a channel that is always zero, or that nobody reads, has nothing to balance
    log_scale = np.zeros_like(amax)
    log_scale[live] = alpha * np.log(amax[live]) - (1 - alpha) * np.log(reach[live])
    log_scale[live] -= log_scale[live].mean() if live.any() else 0
    return np.clip(np.exp(log_scale), *_LIMITS).astype(np.float32)


def _row_error(exact: Array, rows: Array, weight: Array, step: float) -> float:
    """Mean over rows of the relative squared error of a linear in INT8; every token counts the same.

    Args:
        exact: its outputs (n, N).
        rows: its smoothed inputs (n, K).
        weight: its smoothed weight (K, N).
        step: symmetric scale of the inputs.
    """
    error = exact - rounded_rows(rows, step) @ rounded_weight(weight, 1)
    norms = np.maximum(np.einsum("ij,ij->i", exact, exact), 1e-20)
    return float((np.einsum("ij,ij->i", error, error) / norms).mean())


def apply_smoothing(graph: Graph, smoothings: Iterable[Smoothing]) -> Graph:
    """A copy of the graph with the groups rescaled; it computes the same function.

    Tensor names stay, but for `mul` groups, whose linears then read `<x>/s`.
    """
    smoothed = graph.copy()
    for smoothing in smoothings:
        if smoothing.alpha is None:
            continue
        for layer in smoothing.group.consumers:
            _multiply(smoothed, layer.name, 1, smoothing.scale, layer.in_axis)
        _FOLDS[smoothing.group.kind](smoothed, smoothing)
    smoothed.commit()
    return smoothed


def smoothed_input(layer: Layer, smoothings: Mapping[str, Smoothing]) -> str:
    """Name of the tensor that a layer reads in the smoothed graph."""
    smoothing = smoothings.get(layer.x)  # a `mul` group has one input
    moved = smoothing is not None and smoothing.alpha is not None and smoothing.group.kind == "mul"
    return f"{layer.x}/s" if moved else layer.x


def _multiply(graph: Graph, node_name: str, position: int, factor: Array, axis: int) -> None:
    node = graph.by_name[node_name]
    name = graph.own_constant(node, position)
    value = graph.array(name)
    shape = [-1 if other == axis else 1 for other in range(value.ndim)]
    graph.put(name, (value.astype(np.float32) * factor.reshape(shape)).astype(value.dtype))


def _fold_layer_norm(graph: Graph, smoothing: Smoothing) -> None:
    node = graph.by_name[smoothing.group.maker]
    for position in range(1, len(node.input)):
        _multiply(graph, node.name, position, np.float32(1) / smoothing.scale, 0)


def _fold_columns(graph: Graph, smoothing: Smoothing) -> None:
    group = smoothing.group
    assert group.columns is not None
    node = graph.by_name[group.maker]
    dims = graph.constants[node.input[1]].dims
    out_axis = 0 if attribute(node, "transB", 0) else 1
    factor = np.ones(dims[out_axis], np.float32)
    factor[group.columns] = 1 / smoothing.scale
    _multiply(graph, node.name, 1, factor, out_axis)
    for owner, position in _bias_places(graph, node):
        _multiply(graph, owner.name, position, factor, 0)


def _bias_places(graph: Graph, node: onnx.NodeProto) -> list[tuple[onnx.NodeProto, int]]:
    """Where the bias of a linear is read: its own third input, or that of the Add behind it."""
    if len(node.input) > 2:
        return [(node, 2)]
    add = graph.consumers[node.output[0]][0]
    if add.op_type != "Add":
        return []
    return [(add, position) for position, name in enumerate(add.input) if name in graph.constants]


def _fold_mul(graph: Graph, smoothing: Smoothing) -> None:
    group = smoothing.group
    moved = f"{group.x}/s"
    factor = graph.put(f"{moved}.factor", (1 / smoothing.scale).astype(np.float32))
    nodes = [graph.by_name[layer.name] for layer in group.consumers]
    graph.insert_before(nodes[0], helper.make_node("Mul", [group.x, factor], [moved], name=f"{moved}.mul"))
    graph.shapes[moved], graph.types[moved] = graph.shapes[group.x], graph.types[group.x]
    for node in nodes:
        node.input[0] = moved


_FOLDS = {"layer norm": _fold_layer_norm, "values": _fold_columns, "up branch": _fold_columns, "mul": _fold_mul}


def require_same_function(before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
    """Check that smoothing left the function as it was.

    Args:
        before: outputs of the float graph.
        after: outputs of the smoothed graph on the same image.

    Raises:
        BuildError: they differ by more than rounding does.
    """
    for name, expected in before.items():
        difference = float(np.abs(after[name] - expected).max())
        allowed = 1e-3 * float(np.abs(expected).max()) + 1e-6
        cosine = float(
            (after[name] * expected).sum() / (np.linalg.norm(after[name]) * np.linalg.norm(expected) + 1e-30)
        )
        if not (difference <= allowed and cosine > 0.999999):
            raise BuildError(
                f"smoothing changed output {name}: cosine {cosine:.8f}, largest difference {difference:.2e} of "
                f"{allowed:.2e} allowed; the graph has a branch that calibration does not understand: report it"
            )
