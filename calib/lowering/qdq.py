"""The lowering for TensorRT and OpenVINO: explicit, symmetric Q/DQ on the inputs of linears and convolutions.

QuantizeLinear and DequantizeLinear on the activation, an int8 weight with a DequantizeLinear per output channel, the
bias in floating point, nothing on outputs: TensorRT and OpenVINO fuse exactly this into integer kernels. ONNX Runtime
runs it in floating point, slower than without; it has a lowering of its own in `ort_lowering`.

Source: "Q/DQ layer-placement recommendations" of the TensorRT developer guide. Scales are 0-dimensional, as it
demands.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.ranges.scales import IntegerLayer, quantize_weight


def qdq_graph(smoothed: Graph, integers: Iterable[IntegerLayer]) -> Graph:
    """A copy of the smoothed graph with Q/DQ around `integers`."""
    graph = smoothed.copy()
    done: set[str] = set()
    for entry in integers:
        node = graph.by_name[entry.layer.name]
        if entry.x not in done:
            done.add(entry.x)
            graph.insert_before(node, *_activation_pair(graph, entry))
        node.input[0] = f"{entry.x}/dq"
        graph.insert_before(node, _weight_node(graph, entry, node))
        correct_bias(graph, entry)
    graph.commit()
    return graph


def _activation_pair(graph: Graph, entry: IntegerLayer) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    x = entry.x
    scale = graph.put(f"{x}/scale", np.array(entry.range.scale, _float_type(graph, x)))
    zero = graph.put(f"{x}/zero", np.array(0, np.int8))
    return (
        helper.make_node("QuantizeLinear", [x, scale, zero], [f"{x}/q"], name=f"{x}/quantize"),
        helper.make_node("DequantizeLinear", [f"{x}/q", scale, zero], [f"{x}/dq"], name=f"{x}/dequantize"),
    )


def _weight_node(graph: Graph, entry: IntegerLayer, node: onnx.NodeProto) -> onnx.NodeProto:
    layer, weight = entry.layer, graph.array(node.input[1])
    stem = f"{layer.name}/weight"
    integers, scale = quantize_weight(weight.astype(np.float32), layer.out_axis)
    names = [
        graph.put(f"{stem}/q", integers),
        graph.put(f"{stem}/scale", scale.astype(weight.dtype)),
        graph.put(f"{stem}/zero", np.zeros(scale.shape, np.int8)),
    ]
    node.input[1] = f"{stem}/dq"
    return helper.make_node("DequantizeLinear", names, [f"{stem}/dq"], name=f"{stem}/dequantize", axis=layer.out_axis)


def correct_bias(graph: Graph, entry: IntegerLayer) -> None:
    """Add the layer's shift to its bias, wherever the bias is read; a layer without one is left alone."""
    layer = entry.layer
    if entry.shift is None or not layer.bias:
        return
    node = graph.by_name[layer.bias_node or layer.name]
    position = 2 if not layer.bias_node else next(i for i, name in enumerate(node.input) if name in graph.constants)
    name = graph.own_constant(node, position)
    bias = graph.array(name)
    graph.put(name, (bias.astype(np.float32) + entry.shift).astype(bias.dtype))


def _float_type(graph: Graph, tensor: str) -> np.dtype:
    return helper.tensor_dtype_to_np_dtype(graph.types.get(tensor, onnx.TensorProto.FLOAT))
