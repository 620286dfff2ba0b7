"""The few rewrites of an exported graph that we need, one function each, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from brixel_edge.export.graph.walk import consumers, producers

SAMPLES_PREFIX = "materialised."  # runtimes do not copy outputs of this name from the device


def fusable_gelu(model: onnx.ModelProto) -> int:
    """Write GELU as (x * (1 + erf(x / sqrt 2))) * 0.5, the order that runtimes recognise and fuse.

    Torch's exporter multiplies (1 + erf) by 0.5 first. ONNX Runtime's fusion does not know that order and runs five
    passes over the widest tensors of the model instead of one. The values change in the last bit only.

    Returns:
        how many were rewritten.
    """
    halves = {tensor.name for tensor in model.graph.initializer if _is_half(tensor)}
    count = 0
    for halving, product, x in _halved_first(model, halves):
        half = next(name for name in halving.input if name in halves)
        shifted = next(name for name in halving.input if name not in halves)
        halving.input[:] = [x, shifted]
        product.input[:] = [halving.output[0], half]
        count += 1
    return count


def materialised_samples(model: onnx.ModelProto) -> int:
    """Make what every GridSample gives an output of the graph, `materialised.0` and so on.

    A tensor that must exist in memory cannot be fused away, and fusing it is what some TensorRT releases do wrongly.

    Args:
        model: with inferred shapes.

    Returns:
        how many there are.
    """
    graph = model.graph
    shapes = {value.name: value for value in graph.value_info}
    sampled = [node for node in graph.node if node.op_type == "GridSample"]
    for count, node in enumerate(sampled):
        old, new = node.output[0], f"{SAMPLES_PREFIX}{count}"
        for reader in graph.node:
            reader.input[:] = [new if name == old else name for name in reader.input]
        node.output[0] = new
        value = graph.output.add()
        value.CopyFrom(shapes[old])
        value.name = new
    return len(sampled)


def _is_half(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    return values.size == 1 and float(values.reshape(-1)[0]) == 0.5


def _halved_first(model: onnx.ModelProto, halves: set[str]) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto, str]]:
    """Every Mul(0.5, Add(Erf(..), 1)) with the Mul(x, .) that is its only reader."""
    producer, readers = producers(model), consumers(model)
    for halving in [node for node in model.graph.node if node.op_type == "Mul"]:
        others = [name for name in halving.input if name not in halves]
        if len(others) != 1 or not _is_shifted_erf(producer, others[0]):
            continue
        using = readers[halving.output[0]]
        if len(using) == 1 and using[0].op_type == "Mul" and len(set(using[0].input)) == 2:
            yield halving, using[0], next(name for name in using[0].input if name != halving.output[0])


def _is_shifted_erf(producer: dict[str, onnx.NodeProto], name: str) -> bool:
    add = producer.get(name)
    return (
        add is not None
        and add.op_type == "Add"
        and any(producer[given].op_type == "Erf" for given in add.input if given in producer)
    )
