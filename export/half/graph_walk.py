"""Who makes and who reads a tensor of an ONNX graph, and which operators only move numbers."""

from __future__ import annotations

from collections import defaultdict

import onnx
from onnx import TensorProto

# One input's values in another order or shape; they are the same numbers.
MOVES = frozenset({"Transpose", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand"})


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """TensorProto element type of every tensor, constants included.

    Args:
        model: with inferred shapes.
    """
    types = {entry.name: entry.data_type for entry in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def float_tensors(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The fp32 tensors that nodes make, in order, with the node that makes them."""
    types = element_types(model)
    return {
        name: node for node in model.graph.node for name in node.output if name and types.get(name) == TensorProto.FLOAT
    }


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Tensor -> the node that makes it."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Tensor -> the nodes that read it."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if name:
                readers[name].append(node)
    return dict(readers)
