"""A TensorRT network: filled from ONNX, read out, and under weak typing pinned to the graph's own types."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from brixel_edge.export.engine.dialect import Dialect
from brixel_edge.export.engine.log import BuildLog, one_line
from brixel_edge.model.engine_file import EngineTensor
from brixel_edge.model.graph_facts import GraphFacts

# Layers with a choice of arithmetic; to pin any other (shapes, constants, shuffles) is an error under OBEY.
_PINNABLE = {
    "ACTIVATION", "CONVOLUTION", "DECONVOLUTION", "ELEMENTWISE", "GRID_SAMPLE", "MATRIX_MULTIPLY", "NORMALIZATION",
    "POOLING", "REDUCE", "RESIZE", "SCALE", "SOFTMAX", "UNARY",
}  # fmt: skip
# Wrong in fp16 too often to leave to the tuner (NVIDIA #4723, #2709), whatever the graph says.
_ALWAYS_FLOAT = {"GRID_SAMPLE", "NORMALIZATION", "SOFTMAX"}


_DTYPES = {
    "FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32",
    "INT64": "int64", "BOOL": "bool",
}  # fmt: skip


def parse_graph(dialect: Dialect, network: Any, log: BuildLog, graph: Path) -> str | None:
    """Fill a network from an ONNX file; what the parser refused, or None."""
    parser = dialect.module.OnnxParser(network, log.logger)
    flags = getattr(dialect.module, "OnnxParserFlag", None)
    if flags is not None and hasattr(flags, "NATIVE_INSTANCENORM"):
        parser.set_flag(flags.NATIVE_INSTANCENORM)  # 8.6 would take a plugin for GroupNorm's inner step
    return None if parser.parse_from_file(str(graph)) else _parser_errors(parser)


def _parser_errors(parser: Any) -> str:
    """What the ONNX parser refused, on one line."""
    lines: list[str] = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        # 8.6 knows the node's number only; later releases its name and operator.
        where = (
            f"{error.node_operator()} {error.node_name()}".strip()
            if hasattr(error, "node_name")
            else f"node {error.node()}"
        )
        line = f"{where}: {one_line(error.desc())}"
        if line not in lines:
            lines.append(line)
    if not lines:
        return "it gave no reason"
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return lines[0] + more


def pin_float_layers(dialect: Dialect, network: Any, facts: GraphFacts) -> int:
    """Under weak typing, pin to fp32 what the graph keeps in fp32, and what is wrong in fp16 too often.

    Returns:
        how many layers were pinned.
    """
    if facts.precisions == ("fp32",):
        return 0
    kinds, types = dialect.module.LayerType, dialect.module.DataType
    pinnable = {int(getattr(kinds, name)): name for name in sorted(_PINNABLE) if hasattr(kinds, name)}
    float_types = {int(getattr(types, name)) for name in ("FLOAT", "HALF", "BF16") if hasattr(types, name)}
    names = facts.float_islands | facts.attention_scores
    pinned = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        kind = pinnable.get(int(layer.type))
        is_named = layer.name in names or any(output.name in names for output in outputs)
        if kind is None or not (is_named or kind in _ALWAYS_FLOAT):
            continue
        layer.precision = types.FLOAT
        for number, output in enumerate(outputs):
            if int(output.dtype) in float_types:
                layer.set_output_type(number, types.FLOAT)
        pinned += 1
    return pinned


def network_tensors(network: Any) -> tuple[EngineTensor, ...]:
    """Inputs and outputs."""
    inputs = [(network.get_input(index), True) for index in range(network.num_inputs)]
    outputs = [(network.get_output(index), False) for index in range(network.num_outputs)]
    return tuple(
        EngineTensor(name=tensor.name, dtype=_dtype(tensor.dtype), shape=tuple(tensor.shape), is_input=is_input)
        for tensor, is_input in inputs + outputs
    )


def network_layer_types(network: Any) -> dict[str, int]:
    """Layers by the type of their first output."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    counts = Counter(_dtype(layer.get_output(0).dtype) for layer in layers if layer.num_outputs)
    return dict(sorted(counts.items()))


def _dtype(dtype: Any) -> str:
    return _DTYPES.get(dtype.name, str(dtype.name).lower())
