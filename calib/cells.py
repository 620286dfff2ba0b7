"""The cells of an output that are compared: features as they are, a head's answers so that a cosine means something.

A cosine of two answers is of no use: that of two logarithms of depth is 1 or -1, and near 1 m it turns at the smallest
error. With a constant 1 beside them answers are directions of their own: close answers, and those alone, are close.
"""

from __future__ import annotations

import json

import numpy as np

from brixel_edge.calib.graph import Graph
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.model.onnx_file import SPEC_KEY
from brixel_edge.model.spec import ANSWER, ModelSpec
from brixel_edge.proof.probe import Array, sampled_cells


def compared_cells(name: str, output: Array) -> Array:
    """Cells of one image's output, (n, channels); of an answer with a constant behind it."""
    cells = sampled_cells(output)
    return np.pad(cells, ((0, 0), (0, 1)), constant_values=1.0) if name == ANSWER else cells


def head_of_graph(graph: Graph) -> HeadSpec | None:
    """The head of a graph of brixel-export; None without one."""
    metadata = {entry.key: entry.value for entry in graph.model.metadata_props}
    return ModelSpec.from_json(json.loads(metadata[SPEC_KEY])).head if SPEC_KEY in metadata else None


def class_agreements(reference: list[Array], candidate: list[Array]) -> list[float]:
    """By image: share of the cells of answers that keep their class."""
    return [
        float((a[:, :-1].argmax(1) == b[:, :-1].argmax(1)).mean()) for a, b in zip(reference, candidate, strict=True)
    ]
