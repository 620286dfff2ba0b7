"""Cutting a graph in two at a node, so that the first part runs once and the second part many times."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from brixel_edge.calib.graph import Graph


def live_tensors(graph: Graph, start: int) -> list[str]:
    """Tensors (and graph inputs) from before node number `start` that it or a later node reads."""
    nodes = graph.nodes
    before = {name for node in nodes[:start] for name in node.output} | {
        entry.name for entry in graph.model.graph.input
    }
    read = dict.fromkeys(name for node in nodes[start:] for name in node.input)
    return [name for name in read if name in before]


def size_bytes(graph: Graph, names: list[str]) -> int:
    """Memory that tensors take."""
    widths = [helper.tensor_dtype_to_np_dtype(graph.types[name]).itemsize for name in names]
    return sum(int(np.prod(graph.shapes[name])) * width for name, width in zip(names, widths, strict=True))


def first_part(graph: Graph, start: int, live: list[str]) -> Graph:
    """The nodes before `start`, with the live tensors that they make as outputs."""
    part = graph.copy()
    inputs = {entry.name for entry in graph.model.graph.input}
    _keep_nodes(part, graph.nodes[:start])
    _set_outputs(part, [name for name in live if name not in inputs])
    part.commit()
    return part


def second_part(graph: Graph, start: int, live: list[str]) -> Graph:
    """The nodes from `start` on, with the live tensors as inputs and the outputs that they make."""
    part = graph.copy()
    made = {name for node in graph.nodes[start:] for name in node.output}
    _keep_nodes(part, graph.nodes[start:])
    _set_outputs(part, [name for name in graph.outputs if name in made])
    del part.model.graph.input[:]
    part.model.graph.input.extend(_info(graph, name) for name in live)
    part.commit()
    return part


def _keep_nodes(part: Graph, nodes: list[onnx.NodeProto]) -> None:
    kept = {node.name for node in nodes}
    for node in part.nodes:
        if node.name not in kept:
            part.remove(node)


def _set_outputs(part: Graph, names: list[str]) -> None:
    del part.model.graph.output[:]
    part.model.graph.output.extend(_info(part, name) for name in names)


def _info(graph: Graph, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, graph.types[name], graph.shapes[name])
