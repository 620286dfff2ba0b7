"""TensorRT on the device: named tensors, pinned buffers, one CUDA graph replayed per frame. No torch.

A plan is one TensorRT release and one kind of GPU. Everything that can be known before it is loaded is checked before
it is loaded, and every refusal says how to rebuild. Needs numpy, tensorrt (or tensorrt_rtx) and cuda-python.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BuildError, BundleError, MemoryBudgetError, SpecError
from brixel_edge.machine.cuda import CudaError, DeviceIdentity, current_device, import_cudart
from brixel_edge.machine.memory import MIB
from brixel_edge.machine.tensorrt import EngineKind, full_build, import_tensorrt
from brixel_edge.model.bundle import MANIFEST_NAME, open_bundle
from brixel_edge.model.engine_file import identity_from_name, read_report
from brixel_edge.model.spec import ModelSpec
from brixel_edge.runtimes.backends.cuda_buffers import CudaStream, TensorBuffer
from brixel_edge.runtimes.backends.first_load import proven
from brixel_edge.runtimes.backends.trt_checks import (
    INPUT_NAME,
    check_identity,
    check_tensors,
    place_of_plan,
    plan_of_graph,
)
from brixel_edge.runtimes.backends.trt_engine import TrtEngine
from brixel_edge.runtimes.runtime import NO_EVIDENCE, Evidence, RuntimeSettings

LOGGER = logging.getLogger(__name__)


class TrtRuntime:
    """An opened engine; made by `open_trt`. Threads take turns: there is one stream and one set of pinned buffers.

    Attributes:
        tensors: inputs and outputs as the engine has them.
        device_bytes: memory on the device: weights, activations, buffers; without the CUDA context.
        evidence: why it may be believed here.
    """

    evidence: Evidence = NO_EVIDENCE

    def __init__(
        self, cudart: Any, engine: TrtEngine, outputs: Sequence[str], weights_bytes: int, *, is_mapped: bool
    ) -> None:
        self.tensors = engine.tensors
        with ExitStack() as stack:
            self._stream = CudaStream(cudart, stack)
            buffers = {
                tensor.name: TensorBuffer(cudart, tensor, stack, is_mapped=is_mapped) for tensor in engine.tensors
            }
            # Freed first, before the memory that it works in.
            stack.callback(engine.close)
            engine.bind({name: buffer.address for name, buffer in buffers.items()})
            self._engine = engine
            self._input = buffers[INPUT_NAME]
            self._outputs = [buffers[name] for name in outputs]
            buffer_bytes = sum(buffer.size_bytes for buffer in buffers.values())
            self.device_bytes = weights_bytes + engine.activation_bytes + buffer_bytes
            # Once without a graph: TensorRT finishes its set-up in the first run, and that cannot be captured.
            self._stream.run(self._work)
            self._stream.capture(self._work)
            self._stack = stack.pop_all()
        self._turn = threading.Lock()
        self._is_closed = False

    @property
    def graph_refusal(self) -> str | None:
        """Why there is no CUDA graph; None if frames are replayed by one."""
        return self._stream.graph_refusal

    def infer(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Run the engine.

        Args:
            image: (1, H, W, 3) uint8, in the channel order that the spec names.

        Returns:
            every output by its name, in the engine's type; bf16 as fp32. New arrays at each call.

        Raises:
            SpecError: an image of another size or type, or a closed engine.
            BuildError: the device failed.
        """
        if image.shape != self._input.tensor.shape or image.dtype != np.uint8:
            raise SpecError(
                f"image is {image.dtype} {image.shape}, the engine takes uint8 {self._input.tensor.shape}; "
                "resize it, or export the model for that size"
            )
        with self._turn:
            if self._is_closed:
                raise SpecError("this engine was closed; open it again")
            np.copyto(self._input.host, image)
            try:
                self._stream.run(self._work)
            except CudaError as error:
                raise BuildError(f"the engine failed on this frame: {error}; rebuild it on this device") from error
            return {buffer.tensor.name: buffer.value() for buffer in self._outputs}

    def _work(self) -> None:
        self._stream.upload(self._input)
        self._engine.enqueue(self._stream.handle)
        for buffer in self._outputs:
            self._stream.download(buffer)

    def close(self) -> None:
        """Free the engine, its buffers and its stream, after the frame of another thread; again does nothing."""
        with self._turn:
            self._is_closed = True
            self._stack.close()


def open_engine(path: Path, settings: RuntimeSettings) -> TrtRuntime:
    """Open a plan, or the plan that lies beside a graph, for `open_runtime`.

    Args:
        path: a plan, or a graph of a model directory that has engines.
        settings: whether an engine must pass its gate before its first frame on this device.

    Raises:
        As `open_trt`, BundleError where no plan beside the graph is for this device, and ParityError where it computes
        something else here than PyTorch did.
    """
    plan = path if path.suffix != ".onnx" else plan_of_graph(path, _device_identity)
    is_of_model = plan.with_name(MANIFEST_NAME).is_file()
    runtime = open_trt(plan, open_bundle(plan.parent).spec if is_of_model else None)
    return proven(plan, runtime, place_of_plan(plan, _identity_here(plan)), settings) if is_of_model else runtime


def open_trt(plan: str | Path, spec: ModelSpec | None = None) -> TrtRuntime:
    """Open a TensorRT plan; close it when done.

    Args:
        plan: `engine.<sm>.<trt>.<precision>.plan`, its report beside it. One of another name is opened without the
            checks that the name allows.
        spec: of the model; its image and grid must be the engine's.

    Raises:
        BackendMissing: TensorRT, cuda-python or the GPU is not there.
        BundleError: no plan, or one for another TensorRT, GPU or model.
        MemoryBudgetError: it takes more than there is.
    """
    plan = Path(plan)
    if not plan.is_file() or plan.suffix == ".onnx":
        raise BundleError(f"{plan} is not a TensorRT plan; make one with brixel-export ... --engine trt-fp16")
    if not plan.stat().st_size:
        raise BundleError(f"{plan} is empty; rebuild it: brixel-export ... --engine trt-fp16")
    report = read_report(plan)
    identity = report.identity if report else identity_from_name(plan.name)
    rebuild = f"rebuild it here: brixel-export ... {identity.rebuild_option if identity else '--engine trt-fp16'}"
    module = import_tensorrt(identity.kind if identity else "trt", "the engine")
    cudart = import_cudart()
    device = current_device(cudart)
    if identity is not None:
        check_identity(plan.name, identity, report, str(module.__version__), device, rebuild)
    weights_bytes = plan.stat().st_size if report is None else report.weights_bytes or report.size_bytes
    engine = TrtEngine(module, plan, rebuild, is_version_compatible=bool(report and report.is_version_compatible))
    try:
        outputs = check_tensors(plan.name, engine.tensors, report, spec, rebuild)
        runtime = TrtRuntime(cudart, engine, outputs, weights_bytes, is_mapped=device.has_mapped_memory)
    except CudaError as error:
        engine.close()
        if error.is_out_of_memory:
            raise MemoryBudgetError(
                f"{plan.name} does not fit on this device: {error}; close other programs"
            ) from error
        raise BuildError(f"{plan.name} does not run on this device: {error}; {rebuild}") from error
    except Exception:
        engine.close()
        raise
    LOGGER.info("%s: %.1f MiB on the device", plan.name, runtime.device_bytes / MIB)
    return runtime


def _identity_here(plan: Path) -> DeviceIdentity:
    """What a proof of a plan holds for, here."""
    identity = identity_from_name(plan.name)
    kind = identity.kind if identity else "trt"
    return current_device(import_cudart()).identity(full_build(import_tensorrt(kind, "the engine"), kind))


def _device_identity(kind: EngineKind) -> tuple[str, int]:
    """TensorRT's version and the compute capability here."""
    module = import_tensorrt(kind, "the engine")
    return str(module.__version__), current_device(import_cudart()).compute_capability
