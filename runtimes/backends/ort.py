"""ONNX Runtime: the embedded default, on every CPU, and on CUDA where its GPU build is installed (extra `gpu`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
)

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.machine.ort_session import open_session
from brixel_edge.runtimes.backends.first_load import cpu_place, proven
from brixel_edge.runtimes.runtime import MATERIALISED_PREFIX, NO_EVIDENCE, Evidence, RuntimeSettings

_LOG = logging.getLogger(__name__)
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_REFUSALS = (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, NotImplemented)
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


def _providers() -> list[str | tuple[str, dict[str, str]]]:
    """CUDA first where this build of ONNX Runtime has it.

    Its defaults take gigabytes: the arena doubles at each growth, and cuDNN's exhaustive search needs a workspace of
    5 GB where the heuristic one takes 0.6 GB (onnxruntime #7612).
    """
    if _CUDA not in onnxruntime.get_available_providers():
        return [_CPU]
    lean = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
    return [(_CUDA, lean), _CPU]


class OrtRuntime:
    """One graph in ONNX Runtime. Outputs are written into arrays of ours, so nothing is copied.

    Threads run side by side: each call binds arrays of its own, and a session takes calls of several threads. Measured
    with four threads on two busy cores: 2.3 to 2.8 times as fast as taking turns, for 62 MiB more (built-in model).

    Attributes:
        device: what computes, `CPU` or `CUDA`.
        evidence: why it may be believed here.
    """

    evidence: Evidence = NO_EVIDENCE

    def __init__(self, path: Path, settings: RuntimeSettings) -> None:
        try:
            self._engine = open_session(
                path, threads=settings.threads, providers=_providers(), has_memory_pattern=False
            )
        except _REFUSALS as error:
            reason = " ".join(str(error).split())[:200]
            raise BundleError(f"ONNX Runtime cannot run {path} ({reason}); export it again, or update it") from error
        self.device = "CUDA" if _CUDA in self._engine.get_providers() else "CPU"
        if _CUDA in onnxruntime.get_available_providers() and self.device == "CPU":
            _LOG.warning("CUDA did not load (driver, CUDA or cuDNN missing); ONNX Runtime runs on the CPU")
        [entry] = self._engine.get_inputs()
        self._input_name: str = entry.name
        self._input_shape = tuple(entry.shape)
        self._outputs = {
            output.name: (tuple(output.shape), _DTYPES[output.type])
            for output in self._engine.get_outputs()
            if not output.name.startswith(MATERIALISED_PREFIX)
        }

    def infer(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """(1, H, W, 3) uint8 -> outputs by name; see `Runtime.infer`."""
        engine = self._engine  # which a thread that closes may take away
        if engine is None:
            raise SpecError("this runtime is closed; open it again")
        if image.shape != self._input_shape or image.dtype != np.uint8 or not image.flags.c_contiguous:
            raise SpecError(f"the graph takes contiguous uint8 {self._input_shape}, not {image.dtype} {image.shape}")
        results = {name: np.empty(shape, dtype) for name, (shape, dtype) in self._outputs.items()}
        binding = engine.io_binding()
        binding.bind_input(self._input_name, "cpu", 0, np.uint8, image.shape, image.ctypes.data)
        for name, array in results.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        engine.run_with_iobinding(binding)
        return results

    def close(self) -> None:
        """Free the engine."""
        self._engine = None


def open_engine(path: Path, settings: RuntimeSettings) -> OrtRuntime:
    """Open an .onnx file.

    Raises:
        BundleError: ONNX Runtime refuses the file.
        ParityError: in a model directory, and it computes something else here than PyTorch did.
    """
    runtime = OrtRuntime(path, settings)
    place = cpu_place("ort", f"ONNX Runtime {onnxruntime.__version__}", device=runtime.device)
    return proven(path, runtime, place, settings)
