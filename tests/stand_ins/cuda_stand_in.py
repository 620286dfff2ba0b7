"""The CUDA runtime, acted: device memory that no host pointer reaches, and streams that do nothing until waited for."""

from __future__ import annotations

import ctypes
import enum
import types


class CudaMode(enum.IntEnum):
    """The CUDA enums that are used, by their C names."""

    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class CopyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Attribute(enum.IntEnum):
    cudaDevAttrMultiProcessorCount = 16
    cudaDevAttrIntegrated = 18
    cudaDevAttrCanMapHostMemory = 19
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


OK = Error.cudaSuccess
MAPPED_AT = 1 << 60  # what the device calls a mapped page; not what the host calls it


class Cudart:
    """The CUDA runtime as cuda-python gives it: every call returns its error first."""

    cudaStreamCaptureMode = CudaMode
    cudaMemcpyKind = CopyKind
    cudaDeviceAttr = Attribute

    def __init__(self, world):
        self._world = world
        self.device, self.host, self.streams, self.graphs = {}, {}, {}, {}
        self.capturing = None
        self.mapped = set()
        self._next = 0x7000_0000_0000

    def _handle(self):
        self._next += 0x1000
        return self._next

    @property
    def live(self):
        """Everything that was not freed."""
        return [*self.device, *self.host, *self.streams, *self.graphs]

    def queue(self, stream, work):
        (self.capturing if self.capturing is not None else self.streams[int(stream)]).append(work)

    def cudaGetErrorName(self, code):
        return OK, Error(code).name.encode()

    def cudaGetLastError(self):
        self._world.record("cudaGetLastError", None)
        return (OK,)

    def cudaGetDevice(self):
        return (Error.cudaErrorNoDevice, None) if self._world.fault["no_gpu"] else (OK, 0)

    def cudaDeviceGetAttribute(self, attribute, device):
        fault = self._world.fault
        major, minor = divmod(fault["sm"], 10)
        return OK, {
            Attribute.cudaDevAttrComputeCapabilityMajor: major,
            Attribute.cudaDevAttrComputeCapabilityMinor: minor,
            Attribute.cudaDevAttrMultiProcessorCount: fault["multiprocessors"],
            Attribute.cudaDevAttrIntegrated: int(fault["integrated"]),
            Attribute.cudaDevAttrCanMapHostMemory: 1,
        }[attribute]

    def cudaGetDeviceProperties(self, device):
        return OK, types.SimpleNamespace(name=self._world.fault["gpu"].encode() + b"\0\0")

    def cudaMemGetInfo(self):
        return OK, self._world.fault["free"], self._world.fault["total"]

    def cudaDriverGetVersion(self):
        return OK, self._world.fault["driver_cuda"]

    def cudaMalloc(self, size):
        if self._world.fault["no_device_memory"] and len(self.device) == 1:
            return Error.cudaErrorMemoryAllocation, None
        address = self._handle()
        self.device[address] = bytearray(size)
        return OK, address

    def cudaFree(self, address):
        del self.device[address]
        return (OK,)

    def cudaHostAlloc(self, size, flags):
        memory = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(memory)
        self.host[address] = memory
        if flags == 2:
            assert self._world.fault["integrated"], "a discrete GPU would read this over its bus"
            self.mapped.add(address)
        return OK, address

    def cudaHostGetDevicePointer(self, address, flags):
        assert address in self.mapped and flags == 0
        return OK, address + MAPPED_AT

    def memory_at(self, address):
        """What a kernel sees at a device address: device memory, or the host's where it is mapped."""
        if address in self.device:
            return self.device[address]
        assert address - MAPPED_AT in self.mapped, "no memory of the device"
        return self.host[address - MAPPED_AT]

    def cudaFreeHost(self, address):
        del self.host[address]
        self.mapped.discard(address)
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags):
        handle = self._handle()
        self.streams[handle] = []
        return OK, handle

    def cudaStreamDestroy(self, stream):
        del self.streams[stream]
        return (OK,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        self._world.record("cudaMemcpyAsync", kind.name)
        host, device = (source, target) if kind == CopyKind.cudaMemcpyHostToDevice else (target, source)
        assert host in self.host and device in self.device, "copies go between pinned and device memory"
        assert size == len(self.device[device]) == ctypes.sizeof(self.host[host])

        def copy():
            if kind == CopyKind.cudaMemcpyHostToDevice:
                self.device[device][:] = ctypes.string_at(host, size)
            else:
                ctypes.memmove(host, bytes(self.device[device]), size)

        self.queue(stream, copy)
        return (OK,)

    def cudaStreamSynchronize(self, stream):
        if self._world.fault["device_fails"] and self._world.count("cudaGraphLaunch"):
            return (Error.cudaErrorIllegalAddress,)
        work, self.streams[stream][:] = list(self.streams[stream]), []
        for item in work:
            item()
        return (OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        self._world.record("cudaStreamBeginCapture", mode.name)
        if self._world.fault["no_capture"]:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        self.capturing = []
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        work, self.capturing = self.capturing, None
        handle = self._handle()
        self.graphs[handle] = work
        return OK, handle

    def cudaGraphInstantiateWithFlags(self, graph, flags):
        handle = self._handle()
        self.graphs[handle] = self.graphs[graph]
        return OK, handle

    def cudaGraphLaunch(self, graph, stream):
        self._world.record("cudaGraphLaunch", None)
        for work in self.graphs[graph]:
            self.queue(stream, work)
        return (OK,)

    def cudaGraphDestroy(self, graph):
        del self.graphs[graph]
        return (OK,)

    cudaGraphExecDestroy = cudaGraphDestroy
