"""What a graph is made of, and what it may not hold.

Run at every export and kept in the receipt, so that a surprise of an exporter is an error here and not a wrong engine
on a device.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import onnx

from brixel_edge.errors import BuildError
from brixel_edge.model.receipt_sections import Census
from brixel_edge.model.spec import Precision

MIN_OPSET = 17
MAX_OPSET = 19  # GridSample is renamed at 20, and TensorRT up to 10.13 then silently samples nearest (NVIDIA #4646)
# Convolutions take bfloat16 from opset 22 on, also those that an INT8 graph leaves in it.
MAX_OPSETS: dict[Precision, int] = {"bf16": 22, "int8": 22}

# Control flow and shapes that depend on data; each stands for a public report of a wrong or refused engine.
FORBIDDEN = frozenset(
    {"If", "Loop", "Scan", "Range", "NonZero", "Tile", "Scatter", "ScatterND", "ScatterElements", "Shape", "Where"}
    | {"BatchNormalization", "Unique", "TopK", "Einsum", "ConstantOfShape", "Dropout", "Sin", "Cos"}
)

# What exporters make of a LayerNorm before opset 17, beside a Sqrt. Squares of a ViT's residual stream exceed fp16's
# 65504. A Sqrt alone is a texture stem's.
NORM_PARTS = frozenset({"ReduceMean", "Pow"})


def census_of(model: onnx.ModelProto) -> Census:
    """Count a model's nodes and parameters."""
    ops = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.node)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    parameters = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    return Census(opset=opset, nodes=len(model.graph.node), parameters=parameters, ops=dict(sorted(ops.items())))


def census_of_file(path: Path) -> Census:
    """The same of a file."""
    return census_of(onnx.load(str(path)))


def assert_census(model: onnx.ModelProto, precision: Precision = "fp32") -> Census:
    """Count, and refuse what no engine should get.

    Args:
        model: with inferred shapes.
        precision: of the graph; says which opsets and operators it may have.

    Returns:
        the counts.

    Raises:
        BuildError: a forbidden operator, a foreign domain, an opset outside 17 to 19, a dynamic shape, an antialiased
            Resize, or a LayerNorm that was taken apart.
    """
    census = census_of(model)
    if forbidden := sorted(FORBIDDEN & census.ops.keys()):
        raise BuildError(
            f"the exported graph holds {', '.join(forbidden)}; it must be free of them (fixed size, constants)"
        )
    if foreign := sorted(op for op in census.ops if "." in op and precision != "int8"):
        raise BuildError(f"the exported graph holds operators of a foreign domain: {', '.join(foreign)}")
    max_opset = MAX_OPSETS.get(precision, MAX_OPSET)
    if not MIN_OPSET <= census.opset <= max_opset:
        raise BuildError(f"the exported graph has opset {census.opset}; allowed are {MIN_OPSET} to {max_opset}")
    # Shapes behind another domain's operators are not inferred.
    inner = () if precision == "int8" else model.graph.value_info
    for value in (*model.graph.input, *model.graph.output, *inner):
        if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim):
            raise BuildError(f"tensor {value.name} has a dynamic shape; every size is an export of its own")
    for node in model.graph.node:
        if node.op_type == "Resize" and any(a.name == "antialias" and a.i for a in node.attribute):
            raise BuildError(f"node {node.name} is an antialiased Resize, which TensorRT refuses")
    if decomposed := sorted(NORM_PARTS & census.ops.keys()):
        raise BuildError(
            f"the graph holds {', '.join(decomposed)}: a LayerNorm was taken apart, which overflows in fp16"
        )
    return census
