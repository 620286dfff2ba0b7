"""INT8 without frames."""

import pytest
from calib_vit import TOY_FRAMES as FRAMES
from calib_vit import ToyVit

from brixel_edge.calib.engines import OrtEngine
from brixel_edge.calib.lowering.dynamic import quantize_dynamic
from brixel_edge.calib.lowering.kernels import count_kernels
from brixel_edge.model.onnx_file import has_intact_digest, read_onnx_metadata
from brixel_edge.proof.parity import cell_cosines


def test_dynamic_int8_runs_integers_but_does_not_cure_outliers(float_path, done, tmp_path):
    report, _ = done
    names = quantize_dynamic(float_path, tmp_path / "dynamic.onnx")
    assert len(names) == 18
    assert read_onnx_metadata(tmp_path / "dynamic.onnx")["brixel.spec"] == read_onnx_metadata(float_path)["brixel.spec"]
    assert has_intact_digest(tmp_path / "dynamic.onnx")
    frame = FRAMES[0][None]
    assert count_kernels("ort", tmp_path / "dynamic.onnx", frame, threads=1).integer == 18
    a, b = (OrtEngine(path, threads=1).run(frame)["dense"] for path in (float_path, tmp_path / "dynamic.onnx"))
    assert cell_cosines(a, b).mean() < 0.95 < report.lowered[0].outputs["dense"].parity.cosine_mean


@pytest.mark.parametrize("flat", [False, True])
def test_dynamic_int8_is_close_on_a_clean_model(tmp_path, flat):
    (tmp_path / "clean.onnx").write_bytes(ToyVit(flat=flat).graph().SerializeToString())
    assert len(quantize_dynamic(tmp_path / "clean.onnx", tmp_path / "dynamic.onnx")) == 18
    assert count_kernels("ort", tmp_path / "dynamic.onnx", FRAMES[0][None], threads=1).integer == 18
    a, b = (OrtEngine(tmp_path / name, threads=1).run(FRAMES[0][None]) for name in ("clean.onnx", "dynamic.onnx"))
    assert all(cell_cosines(a[name], b[name]).mean() > 0.998 for name in a)
