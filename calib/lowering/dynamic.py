"""INT8 without calibration: activations are ranged anew for every image, by the kernels of ONNX Runtime.

The choice when there are no frames. It needs no images and is nearly as fast, but it cannot move outliers out of the
way: a range per image and tensor does nothing against channels that are always large (measured on planted outliers:
cosine 0.54 where calibration gives 0.999). So it must pass the same gate. ONNX Runtime only; TensorRT has no such
operators.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx
from onnx import helper

from brixel_edge.calib.graph import Graph, load_graph
from brixel_edge.calib.layers import Layer, find_layers
from brixel_edge.machine.files import write_atomically
from brixel_edge.model.onnx_file import with_digest


def quantize_dynamic(graph: Path, out: Path) -> tuple[str, ...]:
    """Write the dynamic INT8 graph of a float graph.

    Args:
        graph: graph.fp32.onnx of brixel-export.
        out: file to write, for instance graph.int8.ort.onnx.

    Returns:
        names of the linears that run in INT8; exclusions are those of static INT8, and convolutions stay in float,
        since their dynamic kernels are slower than the float ones.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as ort_quantize_dynamic

    float_graph = load_graph(graph)
    linears = [layer for layer in find_layers(float_graph) if layer.is_linear and not layer.excluded]
    for layer in linears:
        if layer.op == "Gemm":
            _split_gemm(float_graph, layer)
    float_graph.commit()
    names = [layer.name for layer in linears]
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        named = Path(folder) / "named.onnx"
        named.write_bytes(float_graph.serialized())
        root, level = logging.getLogger(), logging.getLogger().level
        try:
            root.setLevel(logging.ERROR)  # it advises a preprocessing step that the exporter has already done
            ort_quantize_dynamic(
                named,
                out,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=names,
            )
        finally:
            root.setLevel(level)
    model = onnx.load(str(out))
    del model.metadata_props[:]
    model.metadata_props.extend(float_graph.model.metadata_props)
    write_atomically(out, with_digest(model.SerializeToString()))
    return tuple(names)


def _split_gemm(graph: Graph, layer: Layer) -> None:
    """Write a Gemm as MatMul and Add: the dynamic quantiser knows no Gemm."""
    node = graph.by_name[layer.name]
    weight = graph.array(layer.weight)
    matrix = graph.put(f"{layer.name}/matrix", weight if layer.in_axis == 0 else weight.T.copy())
    product = f"{layer.name}/product" if layer.bias else layer.output
    graph.insert_before(node, helper.make_node("MatMul", [layer.x, matrix], [product], name=layer.name))
    if layer.bias:
        graph.insert_before(
            node, helper.make_node("Add", [product, layer.bias], [layer.output], name=f"{layer.name}/bias")
        )
    graph.remove(node)
