"""OpenVINO on the CPU: reads our ONNX as it is; on x86 faster than ONNX Runtime, for some more memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.machine.openvino_hint import precision_hint
from brixel_edge.runtimes.backends.first_load import cpu_place, proven
from brixel_edge.runtimes.runtime import MATERIALISED_PREFIX, NO_EVIDENCE, Evidence, RuntimeSettings

_DTYPES: dict[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "u8": np.uint8,
    "i32": np.int32,
    "i64": np.int64,
}


def _compiled(path: Path, settings: RuntimeSettings) -> tuple[openvino.CompiledModel, str]:
    """The graph, ready to run, and in what it computes what is not integer."""
    core = openvino.Core()
    options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY"}
    if settings.threads:
        options["INFERENCE_NUM_THREADS"] = settings.threads
    try:
        model = core.read_model(str(path))
        # OpenVINO's own default is bf16 for all where the CPU has it, which changes the numbers; so it is always said.
        options["INFERENCE_PRECISION_HINT"] = precision_hint(model, settings.openvino_precision)
        return core.compile_model(model, "CPU", options), str(options["INFERENCE_PRECISION_HINT"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-200:]
        raise BundleError(f"OpenVINO cannot run {path} ({reason}); export it again, or use --backend ort") from error


class OpenVinoRuntime:
    """One graph in OpenVINO. Outputs are written into arrays of ours, so nothing is copied.

    Threads take turns at the one request: it holds the caller's arrays while it runs. A request for each thread was
    measured with four threads on two cores: 0.9 and 1.1 times as fast in two runs, for the memory of one more each.

    Attributes:
        float_precision: in what it computes what is not integer, `f32` or `bf16`.
        evidence: why it may be believed here.
    """

    evidence: Evidence = NO_EVIDENCE

    def __init__(self, path: Path, settings: RuntimeSettings) -> None:
        compiled, self.float_precision = _compiled(path, settings)
        self._turn = threading.Lock()
        self._request = compiled.create_infer_request()
        self._input_shape = tuple(compiled.inputs[0].shape)
        self._outputs = [
            (index, output.get_any_name(), tuple(output.shape), _DTYPES[output.element_type.get_type_name()])
            for index, output in enumerate(compiled.outputs)
            if not output.get_any_name().startswith(MATERIALISED_PREFIX)
        ]

    def infer(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """(1, H, W, 3) uint8 -> outputs by name; see `Runtime.infer`."""
        if image.shape != self._input_shape or image.dtype != np.uint8 or not image.flags.c_contiguous:
            raise SpecError(f"the graph takes contiguous uint8 {self._input_shape}, not {image.dtype} {image.shape}")
        results = {name: np.empty(shape, dtype) for _, name, shape, dtype in self._outputs}
        with self._turn:
            if self._request is None:
                raise SpecError("this runtime is closed; open it again")
            self._request.set_input_tensor(openvino.Tensor(image, shared_memory=True))
            for index, name, *_ in self._outputs:
                self._request.set_output_tensor(index, openvino.Tensor(results[name], shared_memory=True))
            self._request.infer()
        return results

    def close(self) -> None:
        """Free the engine, after the frame that another thread is in."""
        with self._turn:
            self._request = None


def open_engine(path: Path, settings: RuntimeSettings) -> OpenVinoRuntime:
    """Open an .onnx file.

    Raises:
        BundleError: OpenVINO refuses the file.
        SpecError: bf16 was asked for, and this CPU has none.
        ParityError: in a model directory, and it computes something else here than PyTorch did.
    """
    runtime = OpenVinoRuntime(path, settings)
    library = f"OpenVINO {openvino.get_version()}"
    return proven(path, runtime, cpu_place("openvino", library, float_precision=runtime.float_precision), settings)
