"""The whole recipe on a ViT with planted outliers: report, gate, bounds, other seeds, determinism, refusals."""

import dataclasses
import json
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calib_vit import QUIET, ToyVit, losses, outlier_vit, stored_frames, toy_frames
from calib_vit import TOY_FRAMES as FRAMES

from brixel_edge.calib import quantize as recipe
from brixel_edge.calib.engines import OrtEngine
from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.lowering.ort_lowering import ort_graph
from brixel_edge.calib.proof import Bounds
from brixel_edge.calib.quantize import Settings, quantize
from brixel_edge.calib.ranges.calibration import calibrate
from brixel_edge.calib.ranges.smooth import ALPHAS
from brixel_edge.errors import BuildError, ParityError, SpecError
from brixel_edge.machine.openvino_hint import PRECISION_KEY
from brixel_edge.model.onnx_file import has_intact_digest, read_onnx_metadata


def test_report_and_files(done):
    report, folder = done
    assert set(report.files) == {
        "calib.json", "plan.json", "graph.int8.ort.onnx", "graph.int8.onnx", "curve.json",
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == set(report.files)
    record = json.loads(json.dumps(report.to_json()))
    assert record["frames"] == {"calibration": 22, "choice": 5, "judgement": 13, "panels": 1}
    assert record["float_nodes"].keys().isdisjoint(report.plan.integers)
    assert record["int8_nodes"] == len(report.plan.integers) >= 20


def test_gate_holds_on_both_backends(done):
    report, _ = done
    assert [(entry.target, entry.verified_on) for entry in report.lowered] == [("ort", "ort"), ("openvino", "openvino")]
    for entry in report.lowered:
        for found in entry.outputs.values():
            assert found.parity.cosine_mean > 0.998 and found.parity.cosine_p01 > 0.98 and found.agreement > 0.97
            assert found.parity.centred_mean < found.parity.cosine_mean


def test_reported_fidelity_is_that_of_the_files(done, float_path):
    """Opened anew by plain ONNX Runtime, on new images, the written graph is as close as reported."""
    report, folder = done
    frames = [frame[None] for frame in toy_frames(6, seed=77)]
    sessions = [ort.InferenceSession(str(path)) for path in (float_path, folder / "graph.int8.ort.onnx")]
    outputs = [[session.run(["features"], {"image": frame})[0] for frame in frames] for session in sessions]
    a, b = (np.concatenate([np.moveaxis(y[0], 0, -1).reshape(-1, 128) for y in side]) for side in outputs)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.mean() == pytest.approx(report.lowered[0].outputs["features"].parity.cosine_mean, abs=5e-4)


def test_lowerings_keep_inputs_outputs_and_metadata(done, float_path):
    _, folder = done
    for name in ("graph.int8.onnx", "graph.int8.ort.onnx"):
        assert read_onnx_metadata(folder / name)["brixel.spec"] == read_onnx_metadata(float_path)["brixel.spec"]
        assert has_intact_digest(folder / name)
        model, reference = onnx.load(folder / name), onnx.load(float_path)
        assert model.graph.input == reference.graph.input and model.graph.output == reference.graph.output


@pytest.mark.parametrize("is_coarse", [True, False])
def test_openvino_computes_the_float_part_in_f32_where_bf16_alone_misses_the_bounds(
    float_path, tmp_path, monkeypatch, is_coarse
):
    """A CPU with bf16, whose bf16 is either harmless or loses the features."""

    class Bfloat16(OrtEngine):
        def __init__(self, path, *, threads, precision):
            assert precision == "bf16"
            super().__init__(path, threads=threads)

        def run(self, image):
            return {name: values[:, ::-1] if is_coarse else values for name, values in super().run(image).items()}

    monkeypatch.setattr(recipe, "has_bf16", lambda: True)
    monkeypatch.setattr(recipe, "OpenVinoEngine", Bfloat16)
    settings = dataclasses.replace(QUIET, targets=("openvino",))
    recipe.prepare(float_path, stored_frames(FRAMES), out_dir=tmp_path, settings=settings).next_plan()
    found = read_onnx_metadata(tmp_path / "graph.int8.onnx").get(PRECISION_KEY)
    assert found == ("f32" if is_coarse else None)


def test_strict_bound_is_met_with_few_float_nodes(float_path, tmp_path):
    """T6: 0.9995 on both outputs, on frames that nothing was fitted to."""
    bounds = Bounds(mean=0.9995, p01=0.99, agreement=0.97)
    report = quantize(
        float_path, stored_frames(FRAMES), out_dir=tmp_path, settings=dataclasses.replace(QUIET, bounds=bounds)
    )
    assert all(found.parity.cosine_mean >= 0.9995 for found in report.lowered[0].outputs.values())
    reasons = [node.reason for node in report.plan.nodes]
    assert 1 <= reasons.count("sensitivity") <= 8
    candidates = sum(
        node.macs for node in report.plan.nodes if node.precision == "int8" or node.reason == "sensitivity"
    )
    given_up = sum(node.macs for node in report.plan.nodes if node.reason == "sensitivity")
    assert given_up < 0.2 * candidates


@pytest.mark.parametrize("seed", [1, 2])
def test_recipe_holds_on_other_seeds(seed):
    """T12; seed 0 is every other test's."""
    vit = outlier_vit(seed=seed)
    graph = Graph(vit.graph())
    frames = [frame[None] for frame in FRAMES]
    layers = find_layers(graph)
    cosine = {}
    for smooth in (False, True):
        found = calibrate(graph, "sha", frames[:20], ["f"] * 20, seed=0, threads=1, alphas=ALPHAS if smooth else ())
        integers = found.integer_layers(layer for layer in layers if not layer.excluded)
        lowered = ort_graph(found.smoothed(graph), integers, found.ranges)
        cosine[smooth] = 1 - losses(graph, lowered, frames[34:])["dense"]
    assert cosine[False] < 0.9
    assert cosine[True] > 0.998


def test_unreachable_bounds_leave_no_graph(float_path, tmp_path):
    settings = dataclasses.replace(QUIET, bounds=Bounds(mean=0.999999, p01=0.999999, agreement=0.9999))
    with pytest.raises(ParityError, match="INT8 misses its bounds even with 70% of the work in floating point"):
        quantize(float_path, stored_frames(FRAMES), out_dir=tmp_path, settings=settings)
    assert not list(tmp_path.glob("*.onnx"))


def test_same_seed_gives_the_same_bytes(float_path, done, tmp_path):
    """T11: plan, calibration and graphs."""
    _, folder = done
    settings = dataclasses.replace(QUIET, targets=("ort", "openvino"))
    quantize(float_path, stored_frames(FRAMES), out_dir=tmp_path, settings=settings)
    for name in ("plan.json", "calib.json", "graph.int8.onnx", "graph.int8.ort.onnx"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_constant_frames_are_refused(float_path, tmp_path):
    """T10."""
    flat = [np.full((112, 112, 3), level, np.uint8) for level in range(40)]
    with pytest.raises(SpecError, match="flat"):
        quantize(float_path, stored_frames(flat), out_dir=tmp_path, settings=QUIET)


def test_nan_in_the_graph_fails_loudly(tmp_path):
    """T10."""
    vit = ToyVit()
    vit.weights["2.fc1.b"][0] = np.nan
    (tmp_path / "graph.onnx").write_bytes(vit.graph().SerializeToString())
    with pytest.raises(BuildError, match="NaN or Inf"):
        quantize(tmp_path / "graph.onnx", stored_frames(FRAMES), out_dir=tmp_path / "out", settings=QUIET)


def test_unknown_target_and_bound_are_refused():
    with pytest.raises(SpecError, match=r"must be some of ort, openvino, trt"):
        Settings(targets=("tflite",))
    with pytest.raises(SpecError, match=r"mean=1.5 is not between 0 and 1"):
        Bounds(mean=1.5)


def test_gemm_runs_on_integers_in_both_backends(tmp_path):
    (tmp_path / "flat.onnx").write_bytes(ToyVit(depth=2, flat=True).graph().SerializeToString())
    settings = dataclasses.replace(QUIET, targets=("ort", "openvino"))
    report = quantize(tmp_path / "flat.onnx", stored_frames(FRAMES[:20]), out_dir=tmp_path, settings=settings)
    for entry in report.lowered:
        assert entry.kernels.integer == len(report.plan.integers) >= 12
        assert entry.outputs["features"].parity.cosine_mean > 0.998


def test_trt_target_is_verified_in_simulation(float_path, tmp_path):
    report = quantize(
        float_path, stored_frames(FRAMES), out_dir=tmp_path, settings=dataclasses.replace(QUIET, targets=("trt",))
    )
    entry = report.lowered[0]
    assert (entry.file, entry.verified_on, entry.kernels) == ("graph.int8.trt.onnx", "ort", None)
    assert entry.outputs["features"].parity.cosine_mean > 0.995


@pytest.mark.slow
def test_calibration_memory_does_not_grow_with_frames(tmp_path):
    """Once the held-out parts have their full size (64 frames), a further frame costs no tensors, only pixels.

    Two times its own bytes were measured, pages of the frames' file that count as resident among them.
    """
    import subprocess
    import sys

    (tmp_path / "g.onnx").write_bytes(ToyVit(size=448).graph().SerializeToString())
    code = """
import sys
from pathlib import Path
import numpy as np
from brixel_edge.calib.frames import store_frames
from brixel_edge.calib.quantize import Settings, quantize
from brixel_edge.machine.memory import peak_rss_bytes
rng = np.random.default_rng(0)
frames = (rng.integers(0, 255, (448, 448, 3), np.uint8) for _ in range(int(sys.argv[2])))
folder = Path(sys.argv[1])
store = store_frames(frames, (448, 448))
quantize(folder / 'g.onnx', store, out_dir=folder / sys.argv[2], settings=Settings(curve_points=0))
print(peak_rss_bytes())
"""
    peaks = []
    for count in (64, 128):
        command = [sys.executable, "-c", code, str(tmp_path), str(count)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout))
    assert peaks[1] - peaks[0] < 64 * 3 * 448 * 448 * 3


def test_quantising_needs_no_drawing_library(float_path, tmp_path, monkeypatch):
    """pip install brixel-edge[export] brings none."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    settings = dataclasses.replace(QUIET, curve_points=2)
    assert "curve.json" in quantize(float_path, stored_frames(FRAMES), out_dir=tmp_path, settings=settings).files
