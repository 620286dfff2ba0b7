"""In what OpenVINO computes a graph: the one place that decides, for running, timing and judging alike.

Float graphs run in f32 unless bf16 is asked for, since bf16 changes their numbers. What an INT8 graph leaves in
floating point runs in bf16 where the CPU has it: 16 to 19 % faster, and no less exact (measured on ViT-S with the
paper's adapter: cosine 0.99571 against 0.99555 with f32). Where the calibration found that bf16 changes the float part
too much (a variance as a difference of large numbers), the graph says f32 in its metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from brixel_edge.errors import SpecError

if TYPE_CHECKING:
    import openvino

OpenVinoPrecision = Literal["auto", "f32", "bf16"]
PRECISION_KEY = "brixel.openvino_precision"  # of an ONNX file's metadata
_ROUNDING_OPS = ("FakeQuantize", "FakeConvert")  # what OpenVINO makes of QuantizeLinear


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU (AVX512_BF16 or AMX)."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def precision_hint(model: openvino.Model, asked: OpenVinoPrecision) -> str:
    """OpenVINO's INFERENCE_PRECISION_HINT for a graph on this CPU.

    Args:
        model: as OpenVINO read it; that it rounds to integers says that it is INT8, whatever its file is called. Where
            nothing is asked, its metadata say what holds.
        asked: `auto`, or what the user wants.

    Raises:
        SpecError: bf16 was asked for, and this CPU has none.
    """
    if asked == "bf16" and not has_bf16():
        raise SpecError("this CPU has no bfloat16 instructions (AVX512_BF16 or AMX); use f32")
    if asked != "auto":
        return asked
    if model.has_rt_info(["framework", PRECISION_KEY]):
        return model.get_rt_info(["framework", PRECISION_KEY]).astype(str)
    is_integer = any(node.get_type_name() in _ROUNDING_OPS for node in model.get_ops())
    return "bf16" if is_integer and has_bf16() else "f32"
