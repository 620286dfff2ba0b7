"""Running a graph for measurement: ONNX Runtime and OpenVINO behind one call, uint8 image in, named arrays out.

What the device uses is `brixel_edge.runtimes`; these need more (every output, a fixed thread count, kernels counted)
and less (no streams, no budget). What OpenVINO computes in is what a user of the graph gets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from brixel_edge.calib.frames import Image
from brixel_edge.errors import BackendMissing
from brixel_edge.machine.openvino_hint import OpenVinoPrecision, precision_hint
from brixel_edge.machine.ort_session import open_session

Outputs = dict[str, NDArray[np.float32]]
EngineName = Literal["ort", "openvino"]


class Engine(Protocol):
    """A loaded graph."""

    def run(self, image: Image) -> Outputs:
        """All outputs for one uint8 (1, H, W, 3) image."""
        ...


class OrtEngine:
    """ONNX Runtime on the CPU, with the settings that a user gets who opens the file with no options but threads.

    Args:
        model: file, or a serialised graph.
        threads: of inference.
        has_arena: keep freed memory for the next tensor, as by default. It grows by doubling, to twice what lives.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 2, has_arena: bool = True) -> None:
        self.session = open_session(model, threads=threads, has_arena=has_arena)
        self.names = [output.name for output in self.session.get_outputs()]
        self.image = self.session.get_inputs()[0].name

    def run(self, image: Image) -> Outputs:
        """All outputs for one image."""
        return self.run_named({self.image: image})

    def run_named(self, inputs: Mapping[str, NDArray]) -> Outputs:
        """All outputs for inputs by name, as the graphs of calibration have them."""
        return dict(zip(self.names, (np.asarray(value) for value in self.session.run(None, inputs)), strict=True))


class OpenVinoEngine:
    """OpenVINO on the CPU.

    Args:
        path: ONNX file.
        threads: of inference.
        precision: of what is not integer; see `brixel_edge.machine.openvino_hint`.
        profiled: keep the kind of kernel that ran for every node.

    Raises:
        BackendMissing: OpenVINO is not installed.
    """

    def __init__(
        self, path: Path, *, threads: int = 2, precision: OpenVinoPrecision = "auto", profiled: bool = False
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendMissing("OpenVINO is not installed; pip install 'brixel-edge[openvino]'") from error
        core = openvino.Core()
        model = core.read_model(str(path))
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": profiled,
            "INFERENCE_PRECISION_HINT": precision_hint(model, precision),
        }
        self.compiled = core.compile_model(model, "CPU", settings)
        self.request = self.compiled.create_infer_request()
        self.names = [output.get_any_name() for output in self.compiled.outputs]

    def run(self, image: Image) -> Outputs:
        """All outputs for one image."""
        self.request.infer([image])
        return {name: self.request.get_output_tensor(position).data.copy() for position, name in enumerate(self.names)}


def median_ms(engines: dict[str, Engine], image: Image, *, rounds: int = 7, warmup: int = 2) -> dict[str, float]:
    """Median latency of each engine [ms], measured call by call in turn so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(warmup + rounds):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.run(image)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(values[warmup:])) for name, values in times.items()}
