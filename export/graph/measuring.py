"""A graph that measures its own tensors: small statistics, each computed where its tensor is made, are its outputs.

So memory does not grow with the number of images, and hardly with that of the tensors: a 1024 px image costs no more
than its own forward pass. (ONNX Runtime's calibrator keeps the tensors themselves and ran out of 23 GiB on three images
of that size.) Run in the file's order, since the default one runs all reductions last and keeps every tensor until
then, and without an arena, which grows to twice what lives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from brixel_edge.machine.ort_session import open_session


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is computed of one tensor.

    Attributes:
        nodes: that compute it, in running order.
        outputs: names of the tensors to give, fp32.
    """

    nodes: Sequence[onnx.NodeProto]
    outputs: Sequence[str]


def measuring_graph(
    model: onnx.ModelProto,
    statistics: Mapping[str, Statistics],
    *,
    constants: Sequence[onnx.TensorProto] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (),
    kept: Sequence[str] = (),
) -> onnx.ModelProto:
    """A copy of a graph whose outputs are statistics.

    Args:
        model: left as it is.
        statistics: by the tensor that they are of, which a node makes.
        constants: that their nodes read.
        inputs: further ones that their nodes read.
        kept: outputs of the graph that are given too.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        for name in node.output:
            nodes += statistics[name].nodes if name in statistics else ()
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.input.extend(inputs)
    graph.output.extend(value for value in model.graph.output if value.name in kept)
    for entry in statistics.values():
        graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in entry.outputs
        )
    return copy


class Measurement:
    """A graph that measures itself, loaded.

    Args:
        graph: made by `measuring_graph`, serialised.
        threads: of ONNX Runtime; 0 takes one per core.
        is_optimized: let ONNX Runtime fuse nodes; without, every tensor measured is that of the file.
    """

    def __init__(self, graph: bytes, *, threads: int, is_optimized: bool) -> None:
        self._session = open_session(
            graph, threads=threads, in_file_order=True, is_optimized=is_optimized, has_arena=False
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def of(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray[np.float32]]:
        """All outputs for one image."""
        return dict(zip(self._names, self._session.run(None, inputs), strict=True))
