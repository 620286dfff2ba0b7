"""All layers that INT8 is for in INT8, by their ranges alone: engines accept or refuse types and shapes, not plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.calib.graph import load_graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.lowering.targets import IntegerWriter
from brixel_edge.calib.ranges.calibration import calibrate
from brixel_edge.machine.files import sha256_of


def write(graph: Path, images: Sequence[NDArray[np.uint8]], out: Path) -> None:
    """TensorRT's lowering of graph.fp32.onnx with nothing held back.

    Args:
        graph: the float graph.
        images: (1, H, W, 3) uint8, at least two.
        out: file to write.
    """
    loaded = load_graph(graph)
    layers = find_layers(loaded)
    names = [str(position) for position in range(len(images))]
    calibration = calibrate(loaded, sha256_of(graph), images, names, seed=0, threads=1, alphas=())
    candidates = calibration.integer_layers(layer for layer in layers if not layer.excluded)
    writer = IntegerWriter(smoothed=calibration.smoothed(loaded), candidates=candidates, ranges=calibration.ranges)
    writer.write("trt", [entry.layer.name for entry in candidates], out)
