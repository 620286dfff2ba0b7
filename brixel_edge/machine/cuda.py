"""The NVIDIA device of this machine, asked through cuda-python; imported only when asked.

cuda-python is the one CUDA binding that pip has for x86 and for JetPack alike. Its runtime module has had two names;
every call returns its error code first.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from brixel_edge.errors import BackendMissing

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
# Newest first: cuda-python 12.3 and later, then the older ones of CUDA 11 (JetPack 5).
_RUNTIME_MODULES = ("cuda.bindings.runtime", "cuda.cudart")


class CudaError(RuntimeError):
    """A CUDA call that failed; its caller knows what that means to the user. `code` is a cudaError_t."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_out_of_memory(self) -> bool:
        """Whether an allocation failed."""
        return self.code == _OUT_OF_MEMORY


@dataclass(frozen=True, kw_only=True)
class CudaDevice:
    """A GPU.

    Attributes:
        name: as the driver gives it.
        compute_capability: 87 for SM 8.7.
        free_bytes: device memory free now; on Jetson that is the board's memory.
        total_bytes: device memory.
        cuda_version: of the runtime in use, 12060 for 12.6.
    """

    name: str
    compute_capability: int
    free_bytes: int
    total_bytes: int
    cuda_version: int


def import_cudart() -> Any:
    """The CUDA runtime module of cuda-python.

    Raises:
        BackendMissing: it is not installed, or its CUDA cannot be loaded.
    """
    reason = ""
    for name in _RUNTIME_MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = reason or str(error)
    raise BackendMissing(
        f"TensorRT needs cuda-python, which is not usable here ({reason}); "
        'JetPack 6: pip install "cuda-python>=12.6,<13"; x86: pip install "brixel-edge[trt]"'
    )


def checked(cudart: Any, result: tuple[Any, ...], what: str) -> Any:
    """The value of a cuda-python call, which is its result less the error code.

    Raises:
        CudaError: the code is not success; `what` says what was asked.
    """
    code, *values = result
    if int(code) != 0:
        raise CudaError(f"CUDA cannot {what}: {error_name(cudart, code)} ({int(code)})", int(code))
    return values[0] if len(values) == 1 else tuple(values)


def error_name(cudart: Any, code: Any) -> str:
    """A CUDA error code's name."""
    name = cudart.cudaGetErrorName(code)[1]
    return name.decode() if isinstance(name, bytes) else str(name)


def current_device(cudart: Any) -> CudaDevice:
    """What the current device is.

    Raises:
        BackendMissing: there is no usable NVIDIA device.
    """
    attribute = cudart.cudaDeviceAttr
    try:
        index = checked(cudart, cudart.cudaGetDevice(), "find a device")
        major, minor = (
            checked(cudart, cudart.cudaDeviceGetAttribute(which, index), "ask the device")
            for which in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
        )
        name = checked(cudart, cudart.cudaGetDeviceProperties(index), "ask the device").name
        free_bytes, total_bytes = checked(cudart, cudart.cudaMemGetInfo(), "ask for free memory")
        version = checked(cudart, cudart.cudaRuntimeGetVersion(), "tell its version")
    except CudaError as error:
        raise BackendMissing(
            f"no usable NVIDIA device: {error}; TensorRT needs a GPU and its driver, "
            "elsewhere use --engine onnx, or --engine trt-rtx to build ahead of time for a desktop card"
        ) from error
    return CudaDevice(
        name=(name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0"),
        compute_capability=10 * int(major) + int(minor),
        free_bytes=int(free_bytes),
        total_bytes=int(total_bytes),
        cuda_version=int(version),
    )
