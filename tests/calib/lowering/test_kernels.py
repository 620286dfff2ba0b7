"""Kernels that really ran."""

import pytest
from calib_vit import TOY_FRAMES as FRAMES

from brixel_edge.calib.lowering.kernels import count_kernels, require_integers
from brixel_edge.errors import BuildError


def test_integer_kernels_really_ran(done, float_path):
    """T8: as many as planned, none fed by dequantised weights; and the float graph has none."""
    report, _ = done
    planned = len(report.plan.integers)
    for entry in report.lowered:
        assert entry.kernels.integer == planned and entry.kernels.fed_by_dequantize == 0
    frame = FRAMES[0][None]
    assert count_kernels("ort", float_path, frame, threads=1).integer == 0
    assert count_kernels("openvino", float_path, frame, threads=1).integer == 0


def test_silently_float_graph_is_refused(done):
    """T8: ONNX Runtime runs the TensorRT-style graph in floating point."""
    report, folder = done
    census = count_kernels("ort", folder / "graph.int8.onnx", FRAMES[0][None], threads=1)
    assert census.integer == 0 and census.fed_by_dequantize >= 20
    with pytest.raises(BuildError, match=r"ort ran 0 integer kernels of \d+ planned.*use graph\.int8\.ort\.onnx"):
        require_integers(census, len(report.plan.integers))
