"""The lowering for ONNX Runtime on the CPU: its own integer operators, so that nothing is left to fusion.

Linears become MatMulIntegerToFloat on unsigned activations with the bias inside, dense convolutions QLinearConv with
the Relu behind them absorbed. Plain Q/DQ would not do: the optimiser first joins MatMul and bias into a float Gemm
and then finds no pattern (measured on ONNX Runtime 1.31: 0 integer kernels, 1.5 times the float latency). Written
out, the file runs in INT8 for everyone who opens it with no session options at all. Unsigned, because with signed
activations the same operator takes a path seven times slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import Layer, result_tensor
from brixel_edge.calib.lowering.qdq import correct_bias
from brixel_edge.calib.ranges.scales import IntegerLayer, Range, quantize_weight

CONTRIB = "com.microsoft"


def ort_graph(smoothed: Graph, integers: Iterable[IntegerLayer], ranges: Mapping[str, Range]) -> Graph:
    """A copy of the smoothed graph with ONNX Runtime's integer operators for `integers`.

    Args:
        smoothed: float graph after smoothing.
        integers: layers of the plan that run in INT8.
        ranges: tensor -> range, for the inputs of linears and the results of convolutions.
    """
    graph = smoothed.copy()
    _write_gelus(graph)
    if not any(entry.domain == CONTRIB for entry in graph.model.opset_import):
        graph.model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    writer = _Writer(graph, ranges)
    for entry in integers:
        correct_bias(graph, entry)
        (writer.linear if entry.layer.is_linear else writer.convolution)(entry)
    graph.commit()
    return graph


def _write_gelus(graph: Graph) -> None:
    """Replace x * (1 + erf(x / sqrt 2)) * 0.5 by ONNX Runtime's own operator."""
    for erf in [node for node in graph.nodes if node.op_type == "Erf"]:
        found = _gelu(graph, erf)
        if found is not None:
            x, last = found
            name = f"{last.name}/gelu"
            graph.insert_before(last, helper.make_node("Gelu", [x], last.output, name=name, domain=CONTRIB))
            graph.remove(last)
    graph.commit()


def _gelu(graph: Graph, erf: onnx.NodeProto) -> tuple[str, onnx.NodeProto] | None:
    """(x, the node that makes the result) of the GELU that an Erf belongs to, if it does."""
    scaled = graph.producer.get(erf.input[0])
    if scaled is None or not (_is_by(graph, scaled, "Div", 2**0.5) or _is_by(graph, scaled, "Mul", 0.5**0.5)):
        return None
    x = next(name for name in scaled.input if name not in graph.constants)
    shifted = _only_reader(graph, erf)
    product = _only_reader(graph, shifted)
    halved = _only_reader(graph, product)
    if shifted is None or product is None or halved is None or not _is_by(graph, shifted, "Add", 1.0):
        return None
    is_gelu = product.op_type == "Mul" and x in product.input and _is_by(graph, halved, "Mul", 0.5)
    return (x, halved) if is_gelu else None


def _only_reader(graph: Graph, node: onnx.NodeProto | None) -> onnx.NodeProto | None:
    if node is None or node.output[0] in graph.outputs:
        return None
    readers = graph.consumers[node.output[0]]
    return readers[0] if len(readers) == 1 else None


def _is_by(graph: Graph, node: onnx.NodeProto, op: str, value: float) -> bool:
    """Whether a node is an operation with one constant number."""
    numbers = [graph.array(name) for name in node.input if name in graph.constants]
    return node.op_type == op and len(numbers) == 1 and numbers[0].size == 1 and abs(numbers[0].item() - value) < 1e-6


class _Writer:
    """Replaces layers one by one; remembers which tensors already exist as integers."""

    def __init__(self, graph: Graph, ranges: Mapping[str, Range]) -> None:
        self.graph, self.ranges = graph, ranges
        self.integer: set[str] = set()

    def quantized(self, x: str, value_range: Range, reader: onnx.NodeProto) -> list[str]:
        """[integers, scale, zero point] of a tensor; made at its first reader."""
        names = self.grid(x, value_range)
        if x not in self.integer:
            self.integer.add(x)
            node = helper.make_node("QuantizeLinear", [x, *names], [f"{x}/q"], name=f"{x}/quantize")
            self.graph.insert_before(reader, node)
        return [f"{x}/q", *names]

    def grid(self, x: str, value_range: Range) -> list[str]:
        """[scale, zero point] of a tensor."""
        scale, zero = value_range.unsigned
        return [
            self.graph.put(f"{x}/scale", np.array(scale, np.float32)),
            self.graph.put(f"{x}/zero", np.array(zero, np.uint8)),
        ]

    def linear(self, entry: IntegerLayer) -> None:
        graph, layer = self.graph, entry.layer
        node = graph.by_name[layer.name]
        integers, scale = quantize_weight(graph.array(node.input[1]), layer.out_axis)
        x, x_scale, x_zero = self.quantized(entry.x, entry.range, node)
        weight = graph.put(f"{layer.name}/weight", np.ascontiguousarray(integers if layer.out_axis else integers.T))
        weight_scale = graph.put(f"{layer.name}/weight_scale", scale)
        bias = self._bias_name(layer, node)
        inputs = [x, weight, x_scale, weight_scale, x_zero, "", *([bias] if bias else [])]
        new = helper.make_node(
            "MatMulIntegerToFloat", inputs, [layer.output], name=f"{layer.name}/int8", domain=CONTRIB
        )
        graph.insert_before(node, new)
        graph.remove(node)
        if layer.bias_node:
            graph.remove(graph.by_name[layer.bias_node])

    def _bias_name(self, layer: Layer, node: onnx.NodeProto) -> str:
        if not layer.bias_node:
            return node.input[2] if len(node.input) > 2 else ""
        return next(name for name in self.graph.by_name[layer.bias_node].input if name in self.graph.constants)

    def convolution(self, entry: IntegerLayer) -> None:
        graph, layer = self.graph, entry.layer
        node, result = graph.by_name[layer.name], result_tensor(graph, layer)
        integers, scale = quantize_weight(graph.array(node.input[1]), layer.out_axis)
        x = self.quantized(entry.x, entry.range, node)
        weight = [
            graph.put(f"{layer.name}/weight", integers),
            graph.put(f"{layer.name}/weight_scale", scale),
            graph.put(f"{layer.name}/weight_zero", np.zeros(scale.shape, np.int8)),
        ]
        grid = self.grid(result, self.ranges[result])
        inputs = [*x, *weight, *grid]
        if len(node.input) > 2:
            bias_scale = scale.astype(np.float64) * entry.range.unsigned[0]
            steps = np.clip(np.rint(graph.array(node.input[2]) / bias_scale), -(2**31), 2**31 - 1).astype(np.int32)
            inputs.append(graph.put(f"{layer.name}/bias", steps))
        new = helper.make_node("QLinearConv", inputs, [f"{result}/q"], name=f"{layer.name}/int8")
        new.attribute.extend(node.attribute)
        back = helper.make_node("DequantizeLinear", [f"{result}/q", *grid], [result], name=f"{result}/dequantize")
        self.integer.add(result)
        graph.insert_before(node, new, back)
        graph.remove(node)
        if result != layer.output:
            graph.remove(graph.consumers[layer.output][0])
