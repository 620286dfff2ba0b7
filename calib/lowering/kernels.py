"""Which kernels really ran: integer or float, counted from what the backend executed and not from what the file says.

A Q/DQ graph that a backend does not fuse runs in floating point without a word, slower than the float graph. So the
number of executed integer kernels is compared with the plan's, and a shortfall is an error.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from brixel_edge.calib.engines import EngineName, OpenVinoEngine
from brixel_edge.calib.frames import Image
from brixel_edge.errors import BuildError
from brixel_edge.machine.ort_session import open_session

_ORT_INTEGER = {
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "QGemm",
    "QLinearMatMul",
    "QLinearConv",
    "ConvInteger",
}
_ORT_FLOAT = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv", "NhwcFusedConv"}
_OPENVINO_WEIGHTED = ("FullyConnected", "MatMul", "Convolution", "GroupConvolution")  # with suffixes such as Compressed


@dataclass(frozen=True, kw_only=True)
class KernelCount:
    """Matrix products and convolutions that one inference executed.

    Attributes:
        engine: the backend.
        integer: kernels on integers.
        floating: kernels on real numbers, attention products included.
        fed_by_dequantize: float kernels whose weights were dequantised first; ONNX Runtime only.
        float_names: names of the float kernels, as the backend gives them: of the graph's node, or of a fusion.
        kernels: how often each kind of kernel ran.
    """

    engine: EngineName
    integer: int
    floating: int
    fed_by_dequantize: int
    kernels: Mapping[str, int]
    float_names: frozenset[str] = field(default=frozenset(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "float_names"}


def count_kernels(engine: EngineName, path: Path, image: Image, *, threads: int = 2) -> KernelCount:
    """Run a graph once and count what ran."""
    return _openvino(path, image, threads) if engine == "openvino" else _onnxruntime(path, image, threads)


def require_integers(count: KernelCount, expected: int) -> None:
    """Refuse a graph that silently runs in floating point.

    Raises:
        BuildError: fewer integer kernels than the plan has, or float ones that dequantised weights feed.
    """
    if count.integer < expected or count.fed_by_dequantize:
        raise BuildError(
            f"{count.engine} ran {count.integer} integer kernels of {expected} planned, and "
            f"{count.fed_by_dequantize} float ones on dequantised values: this lowering is not for this backend; "
            "use graph.int8.ort.onnx with ONNX Runtime, graph.int8.onnx with OpenVINO and .trt.onnx with TensorRT"
        )


def _onnxruntime(path: Path, image: Image, threads: int) -> KernelCount:
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        session = open_session(path, threads=threads, profile_prefix=Path(folder) / "profile", optimized_out=optimized)
        session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        fed = _fed_by_dequantize(optimized)
    ran = Counter(
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )
    return KernelCount(
        engine="ort",
        integer=sum(count for op, count in ran.items() if op in _ORT_INTEGER),
        floating=sum(count for op, count in ran.items() if op in _ORT_FLOAT),
        fed_by_dequantize=fed,
        kernels=dict(sorted(ran.items())),
    )


def _fed_by_dequantize(optimized: Path) -> int:
    """Float matrix products and convolutions of an optimised graph with a dequantised operand."""
    import onnx

    nodes = onnx.load(str(optimized)).graph.node
    dequantized = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    return sum(node.op_type in _ORT_FLOAT and not dequantized.isdisjoint(node.input[1:2]) for node in nodes)


def _openvino(path: Path, image: Image, threads: int) -> KernelCount:
    engine = OpenVinoEngine(path, threads=threads, profiled=True)
    engine.run(np.ascontiguousarray(image))
    ran: Counter[str] = Counter()
    integers: list[str] = []
    floats: set[str] = set()
    for entry in engine.request.profiling_info:
        if str(entry.status) != "Status.EXECUTED":
            continue
        ran[f"{entry.node_type} {entry.exec_type}"] += 1
        if not entry.node_type.startswith(_OPENVINO_WEIGHTED):
            continue
        if entry.exec_type.lower().endswith(("_i8", "_u8")):
            integers.append(entry.node_name)
        else:
            floats.add(entry.node_name.split("/")[0])
    return KernelCount(
        engine="openvino",
        integer=len(integers),
        floating=len(floats),
        fed_by_dequantize=0,
        kernels=dict(sorted(ran.items())),
        float_names=frozenset(floats),
    )
