"""How much memory an engine needs on its device, and whether that is allowed.

An engine takes its weights, the activations of one execution context and the buffers of its inputs and outputs (once
on the device, once pinned on the host). The CUDA context comes on top and is the driver's, not ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from brixel_edge.errors import MemoryBudgetError
from brixel_edge.machine.cuda import CudaDevice
from brixel_edge.machine.memory import MIB, available_bytes, free_swap_bytes, parent_rss_bytes
from brixel_edge.model.engine_file import EngineTensor

_ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int32": 4, "int64": 8}

LEVERS = "use a smaller --size, --engine trt-fp16 or trt-int8, or a lower --workspace"


@dataclass(frozen=True, kw_only=True)
class EngineMemory:
    """Device memory of an engine [bytes]."""

    weights_bytes: int
    activation_bytes: int
    buffer_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.activation_bytes + self.buffer_bytes

    @property
    def line(self) -> str:
        """The items, for a message."""
        items = (
            ("weights", self.weights_bytes),
            ("activations", self.activation_bytes),
            ("buffers", self.buffer_bytes),
        )
        return ", ".join(f"{name} {size / MIB:.1f} MiB" for name, size in items)


def buffer_bytes(tensors: tuple[EngineTensor, ...]) -> int:
    """Size of the inputs and outputs, once on the device and once pinned."""
    return 2 * sum(math.prod(tensor.shape) * _ITEM_BYTES.get(tensor.dtype, 1) for tensor in tensors)


def build_memory(device: CudaDevice) -> int:
    """What a build may have of a device.

    On a board the memory is the system's, and CUDA's figure counts neither what the kernel can free nor swap (CUDA for
    Tegra, memory management): there it is what the system calls available, and what the waiting exporter can be
    swapped out of. No more: what the GPU holds is never swapped.
    """
    if not device.has_mapped_memory:
        return device.free_bytes
    available, swap = available_bytes(), free_swap_bytes()
    if available is None:
        return device.free_bytes
    return min(device.total_bytes, available + min(swap or 0, parent_rss_bytes() or 0))


def default_workspace(free_bytes: int, max_memory_bytes: int | None) -> int:
    """Half of what is free, and not more than the engine may use at all.

    TensorRT's own default is all of the device, which on a Jetson is the memory that the build itself lives in.
    """
    limit = free_bytes // 2
    return max(MIB, limit if max_memory_bytes is None else min(limit, max_memory_bytes))


def check_memory(memory: EngineMemory, max_memory_bytes: int | None) -> None:
    """Refuse an engine that needs more than it may.

    Raises:
        MemoryBudgetError: it does.
    """
    if max_memory_bytes is not None and memory.total_bytes > max_memory_bytes:
        raise MemoryBudgetError(
            f"the engine needs {memory.total_bytes / MIB:.1f} MiB ({memory.line}; the CUDA context comes on top) and "
            f"--max-mem allows {max_memory_bytes / MIB:.1f} MiB; {LEVERS}, or a higher --max-mem"
        )
