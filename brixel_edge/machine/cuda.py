"""The NVIDIA device of this machine, asked through cuda-python; imported only when asked.

cuda-python is the one CUDA binding that pip has for x86 and for JetPack alike. Its runtime module has had two names;
every call returns its error code first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brixel_edge.errors import BackendMissing
from brixel_edge.machine.memory import MIB

# Xavier, Orin, Thor (as CUDA 12 and as CUDA 13 count it): boards whose memory is also the GPU's.
JETSON_CAPABILITIES = frozenset({72, 87, 101, 110})

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
# Newest first: cuda-python from 12.6.1 on, then the one before.
_DRIVER_FILE, _BOARD_FILE = Path("/proc/driver/nvidia/version"), Path("/proc/device-tree/model")
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
        cuda_version: that the driver has, 12060 for 12.6; the runtime's would be that of the wheel.
        multiprocessors: how many; every Orin calls itself Orin, and they differ in this.
        driver: version of NVIDIA's driver; empty where the system does not say.
        board: model of the device tree, on boards; empty elsewhere.
        has_mapped_memory: its memory is the host's, and pinned memory can be read and written by both.
    """

    name: str
    compute_capability: int
    free_bytes: int
    total_bytes: int
    cuda_version: int
    multiprocessors: int
    driver: str
    board: str
    has_mapped_memory: bool

    def identity(self, tensorrt: str) -> DeviceIdentity:
        """What a proof or a timing depends on, with the full build of TensorRT."""
        return DeviceIdentity(
            tensorrt=tensorrt,
            name=self.name,
            compute_capability=self.compute_capability,
            multiprocessors=self.multiprocessors,
            total_mib=self.total_bytes // MIB,
            driver=self.driver,
            cuda_version=self.cuda_version,
            board=self.board,
        )


@dataclass(frozen=True, kw_only=True)
class DeviceIdentity:
    """What the speed and the results of an engine depend on besides itself; equal for the same device alone.

    Attributes:
        tensorrt: its full build.
        name: of the GPU.
        compute_capability: 87 for SM 8.7.
        multiprocessors: how many.
        total_mib: device memory.
        driver: version of NVIDIA's driver.
        cuda_version: that the driver has, 12060 for 12.6.
        board: model of the device tree.
    """

    tensorrt: str
    name: str
    compute_capability: int
    multiprocessors: int
    total_mib: int
    driver: str
    cuda_version: int
    board: str

    @property
    def digest(self) -> str:
        """A short name for it, for file names."""
        return hashlib.sha256(repr(dataclasses.astuple(self)).encode()).hexdigest()[:12]


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
        major, minor, multiprocessors, is_integrated, can_map = (
            int(checked(cudart, cudart.cudaDeviceGetAttribute(which, index), "ask the device"))
            for which in (
                attribute.cudaDevAttrComputeCapabilityMajor,
                attribute.cudaDevAttrComputeCapabilityMinor,
                attribute.cudaDevAttrMultiProcessorCount,
                attribute.cudaDevAttrIntegrated,
                attribute.cudaDevAttrCanMapHostMemory,
            )
        )
        name = checked(cudart, cudart.cudaGetDeviceProperties(index), "ask the device").name
        free_bytes, total_bytes = checked(cudart, cudart.cudaMemGetInfo(), "ask for free memory")
        version = checked(cudart, cudart.cudaDriverGetVersion(), "tell its version")
    except CudaError as error:
        raise BackendMissing(
            f"no usable NVIDIA device: {error}; TensorRT needs a GPU and its driver, "
            "elsewhere use --engine onnx, or --engine trt-rtx to build ahead of time for a desktop card"
        ) from error
    return CudaDevice(
        name=(name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0"),
        compute_capability=10 * major + minor,
        free_bytes=int(free_bytes),
        total_bytes=int(total_bytes),
        cuda_version=int(version),
        multiprocessors=multiprocessors,
        driver=_driver_version(),
        board=_board_name(),
        has_mapped_memory=bool(is_integrated and can_map),
    )


def _driver_version() -> str:
    """`540.4.0`: the kernel module's own word; the CUDA version of a driver does not tell its builds apart."""
    text = _text_of(_DRIVER_FILE)
    match = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text)
    return match[0] if match else ""


def _board_name() -> str:
    """`NVIDIA Jetson Orin Nano Developer Kit`; a device tree ends its strings with a zero."""
    return _text_of(_BOARD_FILE).rstrip("\0").strip()


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
