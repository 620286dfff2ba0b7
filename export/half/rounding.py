"""The same arithmetic as a half-precision graph, written in fp32: every half tensor is rounded where it is made.

ONNX Runtime on a CPU has few half kernels. It has none for bfloat16, and it computes chains of fp16 operators in fp32
without rounding in between (measured: 70000 + 60000 - as fp16 infinite - comes out as 130000), so it would pass a graph
that overflows on every GPU. This graph runs everywhere and overflows where the real one does: operators compute in
fp32, as tensor cores accumulate, and a pair of Casts rounds each result.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from brixel_edge.export.graph.walk import element_types

HALF_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def rounding_from_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write a half-precision graph in fp32.

    Args:
        model: strongly typed fp16 or bf16.

    Returns:
        a graph whose tensors hold the values that the half tensors would hold; outputs are fp32.
    """
    types = element_types(onnx.shape_inference.infer_shapes(model))
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        typed = NodeProto()
        typed.CopyFrom(node)
        nodes.append(typed)
        for position, name in enumerate(node.output):
            if types.get(name) in HALF_TYPES:
                typed.output[position] = f"{name}/exact"
                nodes += [
                    helper.make_node("Cast", [f"{name}/exact"], [f"{name}/rounded"], to=types[name]),
                    helper.make_node("Cast", [f"{name}/rounded"], [name], to=TensorProto.FLOAT),
                ]
        if node.op_type == "Cast":
            for attribute in typed.attribute:
                if attribute.name == "to" and attribute.i in HALF_TYPES:
                    attribute.i = TensorProto.FLOAT
    outputs = []
    for entry in model.graph.output:
        shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        outputs.append(helper.make_tensor_value_info(entry.name, TensorProto.FLOAT, shape))
    constants = [
        numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float32), entry.name)
        if entry.data_type in HALF_TYPES
        else entry
        for entry in model.graph.initializer
    ]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, outputs, constants)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
