"""What calibration needs, planned before it starts: the graph's own live tensors and a few copies of the weights."""

from __future__ import annotations

import numpy as np
from onnx import helper

from brixel_edge.calib.choice.sensitivity import MAX_KEPT_BYTES
from brixel_edge.calib.graph import Graph
from brixel_edge.errors import MemoryBudgetError
from brixel_edge.machine.memory import format_bytes

_WEIGHT_COPIES = 4  # the graph, its smoothed copy, one being serialised, one in the session
_ALLOCATOR_SLACK = 2.0  # measured with the paper's adapter at 1024 px: scratch and packed weights of ONNX Runtime
_BASE_BYTES = 150 << 20  # interpreter and libraries


def peak_live_bytes(graph: Graph) -> int:
    """Largest sum of tensors alive at one time in a forward pass, without weights [bytes]."""
    nodes = graph.nodes
    last_use = {name: position for position, node in enumerate(nodes) for name in node.input}
    live = peak = 0
    for position, node in enumerate(nodes):
        live += sum(_tensor_bytes(graph, name) for name in node.output)
        peak = max(peak, live)
        ending = {name for name in node.input if last_use[name] == position and name in graph.producer}
        live -= sum(_tensor_bytes(graph, name) for name in ending - set(graph.outputs))
    return peak


def _tensor_bytes(graph: Graph, name: str) -> int:
    if name not in graph.shapes:
        return 0
    return int(np.prod(graph.shapes[name])) * helper.tensor_dtype_to_np_dtype(graph.types[name]).itemsize


def planned_bytes(graph: Graph) -> int:
    """Memory that calibrating a graph will take [bytes]; does not depend on the number of frames."""
    weights = sum(int(np.prod(tensor.dims)) * 4 for tensor in graph.constants.values())
    return int(_BASE_BYTES + MAX_KEPT_BYTES + _WEIGHT_COPIES * weights + _ALLOCATOR_SLACK * peak_live_bytes(graph))


def require_memory(graph: Graph, allowed_bytes: int) -> None:
    """Refuse before any work what will not fit.

    Raises:
        MemoryBudgetError: the plan exceeds `allowed_bytes`.
    """
    planned = planned_bytes(graph)
    if planned > allowed_bytes:
        height, width = graph.image_shape
        raise MemoryBudgetError(
            f"calibrating this graph at {height}x{width} takes about {format_bytes(planned)}, "
            f"{format_bytes(allowed_bytes)} are allowed; export it smaller, take a smaller backbone, or allow more"
        )
