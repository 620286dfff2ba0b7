"""Running a half of a graph on a CPU backend: arrays in by name, arrays out by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing, BundleError, SpecError
from brixel_edge.runtimes.backends.first_load import Place, cpu_place
from brixel_edge.runtimes.runtime import MATERIALISED_PREFIX, RuntimeSettings

Arrays = Mapping[str, NDArray[Any]]
Half = Callable[[Arrays], dict[str, NDArray[Any]]]


def open_half(path: Path, backend: str, settings: RuntimeSettings) -> tuple[Half, Place]:
    """A function that runs a half, and where it runs.

    Raises:
        BackendMissing: the backend is not installed.
        BundleError: it refuses the file.
        SpecError: a backend that runs no halves.
    """
    openers = {"ort": _ort, "openvino": _openvino}
    if backend not in openers:
        raise SpecError(f"--backbone-every is for ort and openvino, not for {backend}; leave one of them out")
    try:
        return openers[backend](path, settings)
    except ImportError as error:
        raise BackendMissing(f"backend {backend!r} cannot be loaded ({error})") from error


def _ort(path: Path, settings: RuntimeSettings) -> tuple[Half, Place]:
    import onnxruntime

    from brixel_edge.machine.ort_session import open_session

    try:
        session: Any = open_session(path, threads=settings.threads, has_memory_pattern=False)
    except Exception as error:  # its exceptions share no base class
        raise BundleError(f"ONNX Runtime cannot run {path} ({' '.join(str(error).split())[:200]})") from error
    inputs = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs() if not entry.name.startswith(MATERIALISED_PREFIX)]

    def run(given: Arrays) -> dict[str, NDArray[Any]]:
        values = session.run(outputs, {name: given[name] for name in inputs})
        return dict(zip(outputs, values, strict=True))

    return run, cpu_place("ort", f"ONNX Runtime {onnxruntime.__version__}")


def _openvino(path: Path, settings: RuntimeSettings) -> tuple[Half, Place]:
    import openvino

    from brixel_edge.machine.openvino_hint import precision_hint

    options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY"}
    if settings.threads:
        options["INFERENCE_NUM_THREADS"] = settings.threads
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
        options["INFERENCE_PRECISION_HINT"] = precision = precision_hint(model, settings.openvino_precision)
        request = core.compile_model(model, "CPU", options).create_infer_request()
    except RuntimeError as error:
        raise BundleError(f"OpenVINO cannot run {path} ({' '.join(str(error).split())[-200:]})") from error
    inputs = {entry.get_any_name(): entry.get_element_type() for entry in model.inputs}
    outputs = {index: entry.get_any_name() for index, entry in enumerate(model.outputs)}

    def run(given: Arrays) -> dict[str, NDArray[Any]]:
        request.infer({name: _tensor(given[name], kind) for name, kind in inputs.items()})
        return {
            name: np.array(request.get_output_tensor(index).data)
            for index, name in outputs.items()
            if not name.startswith(MATERIALISED_PREFIX)
        }

    library = f"OpenVINO {openvino.get_version()}"
    return run, cpu_place("openvino", library, float_precision=str(precision))


def _tensor(values: NDArray[Any], kind: Any) -> Any:
    """An input of OpenVINO's; numpy has no bfloat16, so that its bits come and go as those of float16."""
    import openvino

    if kind != openvino.Type.bf16:
        return openvino.Tensor(values, shared_memory=True)
    tensor = openvino.Tensor(kind, values.shape)
    tensor.data.view(np.uint16)[...] = values.view(np.uint16)
    return tensor
