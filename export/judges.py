"""What a graph is proven on: backends that run a file of ours, at the build machine, against the reference.

ONNX Runtime runs every fp32 and Q/DQ graph. For half precision it is no judge (see `rounding`), so those graphs are
proven by a rewriting that rounds every tensor as the real types do, and the real file runs besides wherever a backend
has kernels for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from brixel_edge.errors import BuildError
from brixel_edge.export.half.rounding import rounding_from_half
from brixel_edge.machine.openvino_hint import precision_hint
from brixel_edge.machine.ort_session import open_session
from brixel_edge.model.onnx_file import INPUT_NAME, OUTPUT_NAME
from brixel_edge.model.spec import Precision

Features = list[NDArray[np.floating]]


class Judge(Protocol):
    """Runs a file on images."""

    name: str

    def features(self, graph: Path, images: Sequence[NDArray[np.uint8]]) -> Features:
        """(1, D, h, w) for each (1, H, W, 3) uint8 image.

        Raises:
            BuildError: the backend refuses the file.
        """
        ...


class OrtJudge:
    """ONNX Runtime on the CPU, the file as it is."""

    name = "onnxruntime"

    def features(self, graph: Path, images: Sequence[NDArray[np.uint8]]) -> Features:
        """See `Judge.features`."""
        return _run_ort(graph, graph.name, images)


class RoundingJudge:
    """ONNX Runtime on the CPU, a half-precision file with every half tensor really rounded."""

    name = "onnxruntime, every half tensor rounded"

    def features(self, graph: Path, images: Sequence[NDArray[np.uint8]]) -> Features:
        """See `Judge.features`."""
        model = rounding_from_half(onnx.load(str(graph)))
        return _run_ort(model.SerializeToString(), graph.name, images)


class OpenVinoJudge:
    """OpenVINO on the CPU, the file as it is, in the types that a runtime gives it by default."""

    name = "openvino"

    def features(self, graph: Path, images: Sequence[NDArray[np.uint8]]) -> Features:
        """See `Judge.features`."""
        import openvino

        try:
            core = openvino.Core()
            model = core.read_model(str(graph))
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision_hint(model, "auto")})
        except RuntimeError as error:
            raise BuildError(f"OpenVINO refuses {graph.name}: {str(error).splitlines()[-1][:200]}") from error
        return [np.array(compiled([image])[OUTPUT_NAME]) for image in images]


def default_judges(precision: Precision) -> tuple[Judge, ...]:
    """Where a graph of a precision must pass its gate; the first is the one that decides what is rounded."""
    if precision == "fp16":
        return (RoundingJudge(), OrtJudge())
    if precision == "bf16":
        has_openvino = importlib.util.find_spec("openvino") is not None
        return (RoundingJudge(), OpenVinoJudge()) if has_openvino else (RoundingJudge(),)
    return (OrtJudge(),)


def _run_ort(model: Path | bytes, name: str, images: Sequence[NDArray[np.uint8]]) -> Features:
    try:
        session = open_session(model, is_silent=True)
    except Exception as error:  # its exceptions share no base class
        raise BuildError(f"ONNX Runtime refuses {name}: {' '.join(str(error).split())[:200]}") from error
    try:
        return [session.run([OUTPUT_NAME], {INPUT_NAME: image})[0] for image in images]
    except Exception as error:  # for instance an index made of NaN
        raise BuildError(f"ONNX Runtime stopped while running {name}: {' '.join(str(error).split())[-200:]}") from error
