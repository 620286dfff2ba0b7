"""A deserialised TensorRT plan behind one face: the tensors it has, and how to enqueue it.

Tensors have names (`execute_async_v3`), as in all releases from 8.5 on; JetPack 5 and its bindings are Python 3.8's.
Knows nothing of memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brixel_edge.errors import BuildError, BundleError, MemoryBudgetError
from brixel_edge.model.engine_file import EngineTensor

_DTYPES = {
    "FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32",
    "INT64": "int64", "BOOL": "bool",
}  # fmt: skip


class TrtEngine:
    """An engine with one execution context.

    Args:
        module: tensorrt or tensorrt_rtx.
        plan: file of the engine.
        rebuild: what to type where the plan does not fit, for messages.
        is_version_compatible: the plan carries host code of another release, which must be allowed.

    Raises:
        BundleError: TensorRT does not take the plan.
        MemoryBudgetError: no memory for its context.
    """

    def __init__(self, module: Any, plan: Path, rebuild: str, *, is_version_compatible: bool = False) -> None:
        self._errors: list[str] = []
        self._logger = _logger(module, self._errors)
        self._runtime: Any = module.Runtime(self._logger)
        if is_version_compatible:
            self._runtime.engine_host_code_allowed = True
        with plan.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            # Mapped, not read: on a board whose memory is also the GPU's, the file would be there twice.
            self._engine: Any = self._runtime.deserialize_cuda_engine(mapped)
        if self._engine is None:
            version = module.__version__
            raise BundleError(f"{plan} was not accepted by TensorRT {version} ({self.reason()}); {rebuild}")
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise MemoryBudgetError(
                f"no device memory to run {plan} ({self.reason()}); close other programs, or {rebuild}"
            )
        self.tensors = _named_tensors(module, self._engine)

    @property
    def activation_bytes(self) -> int:
        """Device memory of the execution context."""
        size = getattr(self._engine, "device_memory_size_v2", None)
        return int(self._engine.device_memory_size if size is None else size)

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Say where the tensors lie on the device, by name.

        Raises:
            BuildError: TensorRT does not take an address.
        """
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise BuildError(f"TensorRT does not take the address of {name!r} ({self.reason()})")

    def enqueue(self, stream: int) -> None:
        """Queue one inference on a stream.

        Raises:
            BuildError: TensorRT cannot.
        """
        if not self._context.execute_async_v3(stream):
            raise BuildError(f"TensorRT cannot run the engine ({self.reason()}); rebuild it on this device")

    def reason(self) -> str:
        """TensorRT's last error."""
        return self._errors[-1] if self._errors else "it gave no reason"

    def close(self) -> None:
        """Free context, engine and runtime, in that order."""
        self._context = self._engine = self._runtime = None


def _logger(module: Any, errors: list[str]) -> Any:
    error_level = int(module.ILogger.ERROR)

    class Logger(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= error_level:
                errors.append(" ".join(message.split()))

    return Logger()


def _dtype(dtype: Any) -> str:
    return _DTYPES.get(dtype.name, str(dtype.name).lower())


def _named_tensors(module: Any, engine: Any) -> tuple[EngineTensor, ...]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return tuple(
        EngineTensor(
            name=name,
            dtype=_dtype(engine.get_tensor_dtype(name)),
            shape=tuple(engine.get_tensor_shape(name)),
            is_input=engine.get_tensor_mode(name) == module.TensorIOMode.INPUT,
        )
        for name in names
    )
