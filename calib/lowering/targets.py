"""Which INT8 graph is for which backend, and writing it with any choice of nodes in INT8."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.lowering.ort_lowering import ort_graph
from brixel_edge.calib.lowering.qdq import qdq_graph
from brixel_edge.calib.ranges.scales import IntegerLayer, Range
from brixel_edge.machine.files import write_atomically
from brixel_edge.machine.openvino_hint import PRECISION_KEY, OpenVinoPrecision
from brixel_edge.model.bundle import ORT_INT8_NAME, TRT_INT8_NAME, graph_name
from brixel_edge.model.onnx_file import with_digest

Int8Target = Literal["ort", "openvino", "trt"]
# OpenVINO and TensorRT take the same integers; what is around them gets half precision for TensorRT.
GRAPH_NAMES: dict[Int8Target, str] = {
    "ort": ORT_INT8_NAME,
    "openvino": graph_name("int8"),
    "trt": TRT_INT8_NAME,
}


@dataclass(frozen=True, kw_only=True)
class IntegerWriter:
    """Writes the graphs of one calibration.

    Attributes:
        smoothed: float graph after smoothing.
        candidates: every layer that may run in INT8, in running order.
        ranges: tensor -> range, for the results of convolutions.
        openvino_precision: in what OpenVINO shall compute the float part of its graph; None leaves it to the device.
    """

    smoothed: Graph = field(repr=False)
    candidates: Sequence[IntegerLayer] = field(repr=False)
    ranges: Mapping[str, Range] = field(repr=False)
    openvino_precision: OpenVinoPrecision | None = None

    def write(self, target: Int8Target, integers: Collection[str], path: Path) -> Path:
        """Write a backend's graph with the nodes named in `integers` in INT8; gives the path back."""
        chosen = [entry for entry in self.candidates if entry.layer.name in integers]
        graph = ort_graph(self.smoothed, chosen, self.ranges) if target == "ort" else qdq_graph(self.smoothed, chosen)
        if target == "openvino" and self.openvino_precision is not None:
            graph.model.metadata_props.add(key=PRECISION_KEY, value=self.openvino_precision)
        write_atomically(path, with_digest(graph.serialized()))
        return path
