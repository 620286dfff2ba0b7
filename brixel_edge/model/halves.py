"""A graph in two files: the backbone, which may run less often, and the adapter, which runs on every frame."""

from __future__ import annotations

from brixel_edge.errors import SpecError

TAP_PREFIX = "tap."
_WHOLE, _BACKBONE, _ADAPTER = "graph.", "backbone.", "adapter."


def is_graph(name: str) -> bool:
    """Whether a file of a model directory is a whole graph; a half of one is not."""
    return name.endswith(".onnx") and not name.startswith((_BACKBONE, _ADAPTER))


def half_names(graph: str) -> tuple[str, str]:
    """`graph.fp32.onnx` -> `backbone.fp32.onnx`, `adapter.fp32.onnx`.

    Raises:
        SpecError: not named as a graph of a model directory.
    """
    if not graph.startswith(_WHOLE):
        raise SpecError(f"{graph} is not named as a graph of a model directory, graph.PRECISION.onnx")
    rest = graph.removeprefix(_WHOLE)
    return _BACKBONE + rest, _ADAPTER + rest
