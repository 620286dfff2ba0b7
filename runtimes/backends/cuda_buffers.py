"""Memory and work on one CUDA stream: pinned host arrays with their device copies, and a replayable CUDA graph.

Knows nothing of TensorRT. Every resource is freed by `close`, in any state.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.machine.cuda import CudaError, checked
from brixel_edge.model.engine_file import EngineTensor

LOGGER = logging.getLogger(__name__)

# bf16 has no numpy type; its bits travel as uint16.
_NUMPY_TYPES = {
    "fp32": np.float32, "fp16": np.float16, "bf16": np.uint16, "uint8": np.uint8, "int8": np.int8, "int32": np.int32,
    "int64": np.int64, "bool": np.bool_,
}  # fmt: skip
_NON_BLOCKING_STREAM = 1  # cudaStreamNonBlocking: not held up by others' work on the default stream
_DEFAULT_HOST_ALLOCATION, _MAPPED_HOST_ALLOCATION = 0, 2  # cudaHostAllocDefault, cudaHostAllocMapped


class TensorBuffer:
    """One input or output: an address on the device and a pinned array on the host.

    On boards whose memory is also the GPU's both are the same memory, and nothing is copied: caches of Xavier and later
    are coherent with the GPU (CUDA for Tegra, I/O coherency). Elsewhere the GPU would read it over PCI Express.

    Attributes:
        tensor: what it holds.
        address: on the device.
        host: pinned, of the tensor's shape; bf16 as uint16.
        is_mapped: the address is the host array's own memory.
    """

    def __init__(self, cudart: Any, tensor: EngineTensor, stack: ExitStack, *, is_mapped: bool = False) -> None:
        dtype = np.dtype(_NUMPY_TYPES[tensor.dtype])
        self.tensor = tensor
        self.size_bytes = math.prod(tensor.shape) * dtype.itemsize
        what = f"allocate {self.size_bytes} bytes for {tensor.name!r}"
        self.is_mapped = is_mapped
        if not is_mapped:
            self.address = int(checked(cudart, cudart.cudaMalloc(self.size_bytes), what))
            stack.callback(cudart.cudaFree, self.address)
        kind = _MAPPED_HOST_ALLOCATION if is_mapped else _DEFAULT_HOST_ALLOCATION
        pinned = int(checked(cudart, cudart.cudaHostAlloc(self.size_bytes, kind), what))
        stack.callback(cudart.cudaFreeHost, pinned)
        if is_mapped:
            self.address = int(checked(cudart, cudart.cudaHostGetDevicePointer(pinned, 0), what))
        memory = memoryview((ctypes.c_uint8 * self.size_bytes).from_address(pinned))
        self.host: NDArray[Any] = np.frombuffer(memory, dtype=dtype).reshape(tensor.shape)

    def value(self) -> NDArray[Any]:
        """A copy of the host array; bf16 widened to fp32, which is exact."""
        if self.tensor.dtype == "bf16":
            return (self.host.astype(np.uint32) << 16).view(np.float32)
        return self.host.copy()


class CudaStream:
    """A stream of its own, and the work replayed on it.

    Attributes:
        handle: of the stream, for TensorRT.
        graph_refusal: why the work is not replayed as a CUDA graph; None if it is.
    """

    def __init__(self, cudart: Any, stack: ExitStack) -> None:
        self._cudart = cudart
        self._stack = stack
        stream = checked(cudart, cudart.cudaStreamCreateWithFlags(_NON_BLOCKING_STREAM), "create a stream")
        stack.callback(cudart.cudaStreamDestroy, stream)
        self._stream = stream
        self.handle = int(stream)
        self._graph: Any = None
        self.graph_refusal: str | None = "not asked for"

    def upload(self, buffer: TensorBuffer) -> None:
        """Copy host to device, where these are two."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(buffer.address, buffer.host.ctypes.data, buffer, kind)

    def download(self, buffer: TensorBuffer) -> None:
        """Copy device to host, where these are two."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(buffer.host.ctypes.data, buffer.address, buffer, kind)

    def _copy(self, target: int, source: int, buffer: TensorBuffer, kind: Any) -> None:
        if buffer.is_mapped:
            return
        result = self._cudart.cudaMemcpyAsync(target, source, buffer.size_bytes, kind, self._stream)
        checked(self._cudart, result, f"copy {buffer.tensor.name!r}")

    def synchronize(self) -> None:
        """Wait for all work."""
        checked(self._cudart, self._cudart.cudaStreamSynchronize(self._stream), "finish the work")

    def capture(self, work: Callable[[], None]) -> None:
        """Record `work` for `run`; where the driver or the engine cannot be captured, `run` will call it instead.

        The mode is thread-local, so that a camera's thread may use CUDA meanwhile.
        """
        cudart = self._cudart
        try:
            mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            checked(cudart, cudart.cudaStreamBeginCapture(self._stream, mode), "capture a graph")
            try:
                work()
            finally:
                ended = cudart.cudaStreamEndCapture(self._stream)
            graph = checked(cudart, ended, "capture a graph")
            self._stack.callback(cudart.cudaGraphDestroy, graph)
            # WithFlags has meant the same since CUDA 11.4; plain cudaGraphInstantiate changed its arguments at 12.
            self._graph = checked(cudart, cudart.cudaGraphInstantiateWithFlags(graph, 0), "instantiate a graph")
            self._stack.callback(cudart.cudaGraphExecDestroy, self._graph)
            self.graph_refusal = None
        except (CudaError, RuntimeError) as error:
            cudart.cudaGetLastError()  # the refusal must not fail the next call
            self._graph = None
            self.graph_refusal = str(error)
            LOGGER.info("no CUDA graph, kernels are launched one by one: %s", error)

    def run(self, work: Callable[[], None]) -> None:
        """Replay what was captured, or else do `work`; then wait for it."""
        if self._graph is None:
            work()
        else:
            checked(self._cudart, self._cudart.cudaGraphLaunch(self._graph, self._stream), "replay the graph")
        self.synchronize()
