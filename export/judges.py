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
from brixel_edge.model.onnx_file import INPUT_NAME
from brixel_edge.model.spec import ANSWER, FEATURES, Precision
from brixel_edge.proof.references import Outputs

_COMPARED = (FEATURES, ANSWER)


class Judge(Protocol):
    """Runs a file on images."""

    name: str

    def outputs(self, graph: Path, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """Features, a head's answer or both, (1, channels, h, w) by name, for each (1, H, W, 3) uint8 image.

        Raises:
            BuildError: the backend refuses the file.
        """
        ...


class OrtJudge:
    """ONNX Runtime on the CPU, the file as it is."""

    name = "onnxruntime"

    def outputs(self, graph: Path, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """See `Judge.outputs`."""
        return _run_ort(graph, graph.name, images)


class RoundingJudge:
    """ONNX Runtime on the CPU, a half-precision file with every half tensor really rounded."""

    name = "onnxruntime, every half tensor rounded"

    def outputs(self, graph: Path, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """See `Judge.outputs`."""
        model = rounding_from_half(onnx.load(str(graph)))
        return _run_ort(model.SerializeToString(), graph.name, images)


class OpenVinoJudge:
    """OpenVINO on the CPU, the file as it is, in the types that a runtime gives it by default."""

    name = "openvino"

    def outputs(self, graph: Path, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """See `Judge.outputs`."""
        import openvino

        try:
            core = openvino.Core()
            model = core.read_model(str(graph))
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision_hint(model, "auto")})
        except RuntimeError as error:
            raise BuildError(f"OpenVINO refuses {graph.name}: {str(error).splitlines()[-1][:200]}") from error
        names = [name for output in compiled.outputs if (name := output.get_any_name()) in _COMPARED]
        outputs: list[Outputs] = []
        for image in images:
            values = compiled([image])
            outputs.append({name: np.array(values[name]) for name in names})
        return outputs


def default_judges(precision: Precision) -> tuple[Judge, ...]:
    """Where a graph of a precision must pass its gate; the first is the one that decides what is rounded."""
    if precision == "fp16":
        return (RoundingJudge(), OrtJudge())
    if precision == "bf16":
        has_openvino = importlib.util.find_spec("openvino") is not None
        return (RoundingJudge(), OpenVinoJudge()) if has_openvino else (RoundingJudge(),)
    return (OrtJudge(),)


def _run_ort(model: Path | bytes, name: str, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
    try:
        session = open_session(model, is_silent=True)
    except Exception as error:  # its exceptions share no base class
        raise BuildError(f"ONNX Runtime refuses {name}: {' '.join(str(error).split())[:200]}") from error
    names = [output.name for output in session.get_outputs() if output.name in _COMPARED]
    try:
        return [dict(zip(names, session.run(names, {INPUT_NAME: image}), strict=True)) for image in images]
    except Exception as error:  # for instance an index made of NaN
        raise BuildError(f"ONNX Runtime stopped while running {name}: {' '.join(str(error).split())[-200:]}") from error
