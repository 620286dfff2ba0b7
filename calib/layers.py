"""Which nodes of a graph could run in INT8, and why the others stay in floating point.

Roles are read off the structure, not off names, so that every exporter's graph is understood: a linear is a MatMul or
Gemm with a constant matrix; sampling offsets are the linear that steers a GridSample; and so on. Attention products,
softmax, LayerNorm, GELU and residual sums are never candidates, since they have no constant weight.

Source of the exclusions: NVIDIA's ONNX quantiser (few channels, one row), and a measured sensitivity of dense
features to the patch embedding and the sampling positions, which are 1 % of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx

from brixel_edge.calib.graph import Graph

MIN_CHANNELS = 16  # below, integer kernels fill their vectors with padding
_PATCH_STRIDE = 4  # a first convolution with stride = kernel >= this is a patch embedding
_LAYOUT = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice", "Split", "Gather", "Cast"}
_STEERING = _LAYOUT | {"Add", "Sub", "Mul", "Div", "Concat", "Expand", "Floor", "Clip", "Tile"}
_FINAL = _LAYOUT | {"Relu", "DepthToSpace", "Resize"}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A linear or convolution with constant weights.

    Attributes:
        name: of its node.
        op: kind of the node.
        x: tensor it reads.
        output: tensor it makes, after the bias.
        weight: constant with its weights.
        bias: constant with its bias, or "".
        bias_node: name of the Add that applies the bias, or "" where the node itself does.
        in_axis: axis of the weight along the reduced (input) channels.
        out_axis: axis of the weight along the output channels.
        macs: multiply-accumulates per image.
        excluded: why it must stay in floating point; "" for a candidate.
    """

    name: str
    op: Literal["MatMul", "Gemm", "Conv"]
    x: str
    output: str
    weight: str
    bias: str
    bias_node: str
    in_axis: int
    out_axis: int
    macs: int
    excluded: str = ""

    @property
    def is_linear(self) -> bool:
        """Whether the channels it reads are the last axis of `x`."""
        return self.op != "Conv"


def result_tensor(graph: Graph, layer: Layer) -> str:
    """The tensor that a layer's result counts as: behind the Relu, where it has one for itself."""
    readers = graph.consumers[layer.output]
    is_alone = len(readers) == 1 and readers[0].op_type == "Relu" and layer.output not in graph.outputs
    return readers[0].output[0] if is_alone else layer.output


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def find_layers(graph: Graph) -> tuple[Layer, ...]:
    """All linears and convolutions with constant weights, in running order, each with its verdict."""
    layers = [layer for node in graph.nodes if (layer := _layer(graph, node)) is not None]
    names = {layer.name for layer in layers}
    return tuple(_judged(graph, layer, names) for layer in layers)


def _layer(graph: Graph, node: onnx.NodeProto) -> Layer | None:
    if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in graph.constants:
        return None
    x, weight = node.input[0], node.input[1]
    if x in graph.constants or x not in graph.shapes or node.output[0] not in graph.shapes:
        return None
    shape = tuple(graph.constants[weight].dims)
    if node.op_type == "Conv":
        in_axis, out_axis = 1, 0
    elif len(shape) != 2 or (node.op_type == "Gemm" and not _plain_gemm(graph, node)):
        return None
    else:
        in_axis, out_axis = (1, 0) if attribute(node, "transB", 0) else (0, 1)
    bias, bias_node, output = _bias(graph, node)
    positions = int(np.prod(graph.shapes[node.output[0]])) // shape[out_axis]
    return Layer(
        name=node.name, op=node.op_type, x=x, output=output, weight=weight, bias=bias, bias_node=bias_node,
        in_axis=in_axis, out_axis=out_axis, macs=positions * int(np.prod(shape)),
    )  # fmt: skip


def _plain_gemm(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a Gemm is a linear: X W + b with a constant row b, or none."""
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and (bias not in graph.constants or len(graph.constants[bias].dims) != 1):
        return False
    return (
        not attribute(node, "transA", 0)
        and attribute(node, "alpha", 1.0) == 1.0
        and attribute(node, "beta", 1.0) == 1.0
    )


def _bias(graph: Graph, node: onnx.NodeProto) -> tuple[str, str, str]:
    """(constant, name of the Add, tensor after it) of a layer's bias."""
    made = node.output[0]
    if len(node.input) > 2 and node.input[2]:
        return (node.input[2] if node.input[2] in graph.constants else ""), "", made
    readers = graph.consumers[made]
    if node.op_type != "MatMul" or len(readers) != 1 or readers[0].op_type != "Add" or made in graph.outputs:
        return "", "", made
    add = readers[0]
    other = next(name for name in (*add.input, "") if name != made)
    if other not in graph.constants or tuple(graph.constants[other].dims) != graph.shapes[made][-1:]:
        return "", "", made
    return other, add.name, add.output[0]


def _judged(graph: Graph, layer: Layer, names: set[str]) -> Layer:
    reason = (
        _reads_pixels(graph, layer, names)
        or _too_small(graph, layer)
        or _steers_sampling(graph, layer, names)
        or _writes_output(graph, layer)
    )
    return replace(layer, excluded=reason)


def _too_small(graph: Graph, layer: Layer) -> str:
    dims = tuple(graph.constants[layer.weight].dims)
    if min(dims[0], dims[1]) < MIN_CHANNELS:
        return f"fewer than {MIN_CHANNELS} channels ({dims[0]}x{dims[1]})"
    positions = int(np.prod(graph.shapes[layer.output])) // dims[layer.out_axis]
    return "a single row" if positions == 1 else ""


def _reads_pixels(graph: Graph, layer: Layer, names: set[str]) -> str:
    seen, open_tensors = set(), [layer.x]
    while open_tensors:
        node = graph.producer.get(open_tensors.pop())
        if node is None or node.name in seen:
            continue
        if node.name in names:
            return ""
        seen.add(node.name)
        open_tensors.extend(node.input)
    node = graph.by_name[layer.name]
    strides, kernel = attribute(node, "strides", [1, 1]), attribute(node, "kernel_shape", [1, 1])
    is_patches = layer.op != "Conv" or (strides == kernel and min(kernel) >= _PATCH_STRIDE)
    return "patch embedding" if is_patches else "first convolution on pixels"


def _steers_sampling(graph: Graph, layer: Layer, names: set[str]) -> str:
    """Offsets reach the grid of a GridSample (or an index); weights reach a Softmax that no product feeds."""
    seen, open_tensors = set(), [layer.output]
    while open_tensors:
        name = open_tensors.pop()
        for node in graph.consumers[name]:
            if node.op_type == "GridSample" and node.input[1] == name:
                return "sampling offsets"
            if node.op_type == "Floor" or (
                node.op_type in ("Gather", "GatherND", "GatherElements") and node.input[1] == name
            ):
                return "sampling offsets"
            if node.op_type == "Softmax":
                return "attention weights of the sampling"
            if node.op_type in _STEERING and node.name not in seen and node.name not in names:
                seen.add(node.name)
                open_tensors.extend(node.output)
    return ""


def _writes_output(graph: Graph, layer: Layer) -> str:
    """A 1x1 head: from it only layout changes, activations and one sum lead to an output."""
    kernel = tuple(graph.constants[layer.weight].dims)[2:]
    name = layer.output
    sums = 0
    while kernel in ((1, 1), ()):
        if name in graph.outputs:
            return "last 1x1 layer" if layer.op == "Conv" else ""
        readers = graph.consumers[name]
        sums += len(readers) == 1 and readers[0].op_type == "Add"
        if len(readers) != 1 or sums > 1 or not (readers[0].op_type in _FINAL or readers[0].op_type == "Add"):
            return ""
        name = readers[0].output[0]
    return ""
