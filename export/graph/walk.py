"""Who makes and who reads a tensor of an ONNX graph, its type and shape, and which operators only move numbers."""

from __future__ import annotations

from collections import defaultdict

import onnx
from onnx import TensorProto

# One input's values in another order or shape; they are the same numbers.
MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand"})
# Some of one input's values, which need not be as large as the others.
PARTS = frozenset({"Slice", "Split", "Gather"})


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """TensorProto element type of every tensor, constants included.

    Args:
        model: with inferred shapes.
    """
    types = {entry.name: entry.data_type for entry in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor whose axes are all known, but for constants.

    Args:
        model: with inferred shapes.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            shapes[value.name] = tuple(axis.dim_value for axis in tensor.shape.dim)
    return shapes


def float_tensors(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The fp32 tensors that nodes make, in order, with the node that makes them."""
    types = element_types(model)
    return {name: node for name, node in producers(model).items() if types.get(name) == TensorProto.FLOAT}


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Tensor -> the node that makes it, in the order of the nodes."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: onnx.ModelProto) -> defaultdict[str, list[onnx.NodeProto]]:
    """Tensor -> the nodes that read it; empty for one that nobody reads."""
    readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if name:
                readers[name].append(node)
    return readers
