"""The whole pipeline on a ViT with planted outliers: gate, plan, lowerings, kernels that ran, cache, determinism."""

import dataclasses
import importlib.util
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calib_vit import ToyVit, outlier_vit, toy_frames

from brixel_edge.calib.choice.plan import Bounds, load_plan, make_plan
from brixel_edge.calib.choice.sensitivity import sweep
from brixel_edge.calib.choice.speed import speed_verdict
from brixel_edge.calib.graph import Graph, load_graph
from brixel_edge.calib.layers import find_layers
from brixel_edge.calib.lowering.dynamic import quantize_dynamic
from brixel_edge.calib.lowering.engines import OrtEngine
from brixel_edge.calib.lowering.kernels import require_integers, take_census
from brixel_edge.calib.lowering.ort_lowering import ort_graph
from brixel_edge.calib.lowering.qdq import qdq_graph
from brixel_edge.calib.quantize import Settings, quantize
from brixel_edge.calib.ranges.calibration import calibrate, load_calibration
from brixel_edge.errors import BuildError, BundleError, ParityError, SpecError
from brixel_edge.export.engine.build import build
from brixel_edge.export.engine.settings import BuildRequest, EngineSettings
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.onnx_file import read_onnx_metadata
from brixel_edge.proof.probe import cells_of, compare, cosines, probe_agreement

FRAMES = toy_frames(40)
QUIET = Settings(threads=1, curve_points=0, shown=False)


@pytest.fixture(scope="module")
def float_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "graph.fp32.onnx"
    model = outlier_vit().graph()
    model.metadata_props.add(key="brixel.spec", value="{}")
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def done(float_path, tmp_path_factory):
    """A finished run: (report, folder)."""
    folder = tmp_path_factory.mktemp("int8")
    settings = dataclasses.replace(QUIET, targets=("ort", "openvino"), curve_points=4)
    return quantize(float_path, FRAMES, out_dir=folder, settings=settings), folder


@pytest.fixture(scope="module")
def parts(float_path):
    """(graph, layers, calibration, smoothed graph, candidates, effects) of the same model."""
    return stages(float_path, smooth=True)


def stages(path, smooth):
    graph = load_graph(path)
    layers = find_layers(graph)
    frames = [frame[None] for frame in FRAMES]
    found = calibrate(graph, "sha", frames[:24], ["f"] * 24, seed=0, threads=1, smooth=smooth, shown=False)
    smoothed = found.smoothed(graph)
    candidates = found.integer_layers(layer for layer in layers if not layer.excluded)
    return (
        graph,
        layers,
        found,
        smoothed,
        candidates,
        sweep(smoothed, candidates, frames[24:30], threads=1, shown=False),
    )


def losses(graph, lowered, frames):
    """1 - mean cosine of every output, on frames."""
    float_engine, engine = (OrtEngine(entry.serialized(), threads=1) for entry in (graph, lowered))
    pairs = [(float_engine.run(frame), engine.run(frame)) for frame in frames]
    return {
        name: 1 - np.concatenate([cosines(cells_of(a[name]), cells_of(b[name])) for a, b in pairs]).mean()
        for name in graph.float_outputs
    }


def test_report_and_files(done):
    report, folder = done
    assert set(report.files) == {
        "calib.json", "plan.json", "graph.int8.ort.onnx", "graph.int8.onnx", "curve.json", "curve.png",
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == set(report.files)
    record = json.loads(json.dumps(report.to_json()))
    assert record["frames"] == {"calibration": 25, "sensitivity": 5, "evaluation": 10}
    assert record["float_nodes"].keys().isdisjoint(report.plan.integers)
    assert record["int8_nodes"] == len(report.plan.integers) >= 20


def test_gate_holds_on_both_backends(done):
    report, _ = done
    assert [(entry.target, entry.verified_on) for entry in report.lowered] == [("ort", "ort"), ("openvino", "openvino")]
    for entry in report.lowered:
        for found in entry.fidelity.values():
            assert found.mean > 0.998 and found.p01 > 0.98 and found.agreement > 0.97
            assert found.centred < found.mean


def test_reported_fidelity_is_that_of_the_files(done, float_path):
    """Opened anew by plain ONNX Runtime, on new images, the written graph is as close as reported."""
    report, folder = done
    frames = [frame[None] for frame in toy_frames(6, seed=77)]
    sessions = [ort.InferenceSession(str(path)) for path in (float_path, folder / "graph.int8.ort.onnx")]
    outputs = [[session.run(["features"], {"image": frame})[0] for frame in frames] for session in sessions]
    a, b = (np.concatenate([np.moveaxis(y[0], 0, -1).reshape(-1, 128) for y in side]) for side in outputs)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.mean() == pytest.approx(report.lowered[0].fidelity["features"].mean, abs=5e-4)


def test_lowerings_keep_inputs_outputs_and_metadata(done, float_path):
    _, folder = done
    for name in ("graph.int8.onnx", "graph.int8.ort.onnx"):
        assert read_onnx_metadata(folder / name) == {"brixel.spec": "{}"}
        model, reference = onnx.load(folder / name), onnx.load(float_path)
        assert model.graph.input == reference.graph.input and model.graph.output == reference.graph.output


def test_qdq_graph_passes_the_checker(done):
    _, folder = done
    onnx.checker.check_model(str(folder / "graph.int8.onnx"), full_check=True)


def test_qdq_graph_is_symmetric_and_scalar(done):
    """T9: zero points 0, activation scales 0-dimensional and above float16's subnormals, weights within 127."""
    _, folder = done
    model = onnx.load(folder / "graph.int8.onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    weights = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    assert len(quantizers) >= 18 and len(weights) >= 20
    for node in quantizers:
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        assert scale.shape == () and np.isfinite(scale) and scale > 6.1e-5
        assert zero == 0 and zero.dtype == np.int8
    for node in weights:
        integers, scale, zero = (constants[name] for name in node.input)
        assert integers.dtype == np.int8 and np.abs(integers.astype(int)).max() == 127
        assert scale.ndim == 1 and scale.min() > 6.1e-5 and not zero.any()


def test_qdq_graph_quantises_no_output_and_no_bias(done):
    _, folder = done
    model = onnx.load(folder / "graph.int8.onnx")
    pairs = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    readers = {node.op_type for node in model.graph.node for name in node.input if name in pairs}
    assert readers <= {"MatMul", "Gemm", "Conv"}
    for node in model.graph.node:
        assert not (node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2] in pairs)


def test_integer_kernels_really_ran(done, float_path):
    """T8: as many as planned, none fed by dequantised weights; and the float graph has none."""
    report, _ = done
    planned = len(report.plan.integers)
    for entry in report.lowered:
        assert entry.census.integer == planned and entry.census.fed_by_dequantize == 0
    frame = FRAMES[0][None]
    assert take_census("ort", float_path, frame, threads=1).integer == 0
    assert take_census("openvino", float_path, frame, threads=1).integer == 0


def test_silently_float_graph_is_refused(done):
    """T8: ONNX Runtime runs the TensorRT-style graph in floating point."""
    report, folder = done
    census = take_census("ort", folder / "graph.int8.onnx", FRAMES[0][None], threads=1)
    assert census.integer == 0 and census.fed_by_dequantize >= 20
    with pytest.raises(BuildError, match=r"ort ran 0 integer kernels of \d+ planned.*use graph\.int8\.ort\.onnx"):
        require_integers(census, len(report.plan.integers))


def test_ort_lowering_needs_no_session_options(done):
    """Level 0 to 99 of the optimiser: always integer."""
    _, folder = done
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(str(folder / "graph.int8.ort.onnx"), options)
        assert np.isfinite(session.run(None, {"image": FRAMES[0][None]})[0]).all()


def test_ort_lowering_writes_gelu_as_one_operator(parts):
    """Two of the four blocks have it as exporters write it; with no layer in INT8 only that differs."""
    graph = parts[0]
    lowered = ort_graph(graph, [], {})
    kinds = [(node.domain, node.op_type) for node in lowered.nodes]
    assert kinds.count(("com.microsoft", "Gelu")) == 2
    assert sum(node.op_type == "Erf" for node in graph.nodes) == 2 and ("", "Erf") not in kinds
    a, b = (OrtEngine(entry.serialized(), threads=1).run(FRAMES[0][None]) for entry in (graph, lowered))
    assert all(np.allclose(a[name], b[name], atol=1e-4) for name in a)


@pytest.mark.parametrize("name", ["sqrt2", "one", "half"])
def test_ort_lowering_leaves_what_is_no_gelu(parts, name):
    graph = parts[0].copy()
    graph.put(name, np.array(0.7, np.float32))
    graph.commit()
    assert not any(node.op_type == "Gelu" and node.domain for node in ort_graph(graph, [], {}).nodes)


def test_effects_add_up(parts):
    """T5: the sum of single losses predicts what is measured with k nodes in float."""
    graph, layers, found, smoothed, candidates, effects = parts
    plan = make_plan(layers, found, effects, Bounds())
    order = [point.to_float for point in plan.pareto[1:]]
    frames = [frame[None] for frame in FRAMES[24:30]]
    for k in (0, 4, 8, 16):
        left = [entry for entry in candidates if entry.layer.name in order[k:]]
        for name, measured in losses(graph, qdq_graph(smoothed, left), frames).items():
            assert 1 - plan.pareto[k].cosine[name] == pytest.approx(measured, rel=0.15), (k, name)


def test_sweep_equals_quantising_one_node_in_the_whole_graph(parts):
    graph, _, _, smoothed, candidates, effects = parts
    entry = candidates[9]
    frames = [frame[None] for frame in FRAMES[24:30]]
    measured = losses(graph, qdq_graph(smoothed, [entry]), frames)
    for name, loss in measured.items():
        assert effects[entry.layer.name].loss[name] == pytest.approx(loss, rel=0.02, abs=1e-9)


def test_strict_bound_is_met_with_few_float_nodes(float_path, tmp_path):
    """T6: 0.9995 on both outputs, on frames that nothing was fitted to."""
    bounds = Bounds(mean=0.9995, p01=0.99, agreement=0.97)
    report = quantize(float_path, FRAMES, out_dir=tmp_path, settings=dataclasses.replace(QUIET, bounds=bounds))
    assert all(found.mean >= 0.9995 for found in report.lowered[0].fidelity.values())
    reasons = [node.reason for node in report.plan.nodes]
    assert 1 <= reasons.count("sensitivity") <= 8
    candidates = sum(
        node.macs for node in report.plan.nodes if node.precision == "int8" or node.reason == "sensitivity"
    )
    given_up = sum(node.macs for node in report.plan.nodes if node.reason == "sensitivity")
    assert given_up < 0.2 * candidates


def test_smoothing_saves_float_nodes(float_path, parts):
    """T7: without it the same search gives up several times as many nodes for the same bound."""
    bounds = Bounds(mean=0.999)
    _, layers, found, *_, effects = stages(float_path, smooth=False)
    without = make_plan(layers, found, effects, bounds)
    with_smoothing = make_plan(parts[1], parts[2], parts[5], bounds)
    total = sum(not layer.excluded for layer in layers)
    assert total - len(with_smoothing.integers) <= 3
    assert total - len(without.integers) >= 10


@pytest.mark.parametrize("seed", [1, 2])
def test_recipe_holds_on_other_seeds(seed):
    """T12; seed 0 is every other test's."""
    vit = outlier_vit(seed=seed)
    graph = Graph(vit.graph())
    frames = [frame[None] for frame in FRAMES]
    layers = find_layers(graph)
    cosine = {}
    for smooth in (False, True):
        found = calibrate(graph, "sha", frames[:20], ["f"] * 20, seed=0, threads=1, smooth=smooth, shown=False)
        integers = found.integer_layers(layer for layer in layers if not layer.excluded)
        lowered = ort_graph(found.smoothed(graph), integers, found.ranges)
        cosine[smooth] = 1 - losses(graph, lowered, frames[34:])["dense"]
    assert cosine[False] < 0.9
    assert cosine[True] > 0.998


def test_unreachable_bounds_leave_no_graph(float_path, tmp_path):
    settings = dataclasses.replace(QUIET, bounds=Bounds(mean=0.999999, p01=0.999999, agreement=0.9999))
    with pytest.raises(ParityError, match="INT8 misses its bounds even with 70% of the work in floating point"):
        quantize(float_path, FRAMES, out_dir=tmp_path, settings=settings)
    assert not list(tmp_path.glob("*.onnx"))


def test_same_seed_gives_the_same_bytes(float_path, done, tmp_path):
    """T11: plan, calibration and graphs."""
    _, folder = done
    settings = dataclasses.replace(QUIET, targets=("ort", "openvino"))
    quantize(float_path, FRAMES, out_dir=tmp_path, settings=settings)
    for name in ("plan.json", "calib.json", "graph.int8.onnx", "graph.int8.ort.onnx"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_cached_calibration_gives_the_same_plan(float_path, done, tmp_path):
    _, folder = done
    settings = dataclasses.replace(QUIET, targets=("ort", "openvino"))
    quantize(float_path, FRAMES, out_dir=tmp_path, settings=settings, cache=folder / "calib.json")
    for name in ("plan.json", "calib.json", "graph.int8.ort.onnx"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_stale_cache_of_another_graph_is_refused(done, tmp_path):
    """T10."""
    _, folder = done
    other = tmp_path / "graph.fp32.onnx"
    other.write_bytes(ToyVit(seed=5).graph().SerializeToString())
    with pytest.raises(
        BundleError, match=r"calib\.json is stale: it was made for graph .* delete it to calibrate again"
    ):
        quantize(other, FRAMES, out_dir=tmp_path / "out", settings=QUIET, cache=folder / "calib.json")


def test_stale_cache_of_other_frames_is_refused(done, float_path, tmp_path):
    """T10."""
    _, folder = done
    frames = [*FRAMES[:-1], toy_frames(1, seed=8)[0]]
    with pytest.raises(BundleError, match=r"is stale: \d+ of 25 frames are new"):
        quantize(float_path, frames, out_dir=tmp_path, settings=QUIET, cache=folder / "calib.json")


def test_damaged_cache_is_refused(float_path, tmp_path):
    (tmp_path / "calib.json").write_text('{"calibration_version": 1}')
    with pytest.raises(BundleError, match="not a readable calibration"):
        load_calibration(tmp_path / "calib.json", load_graph(float_path), "sha", None)


def test_constant_frames_are_refused(float_path, tmp_path):
    """T10."""
    flat = [np.full((112, 112, 3), level, np.uint8) for level in range(40)]
    with pytest.raises(SpecError, match="flat"):
        quantize(float_path, flat, out_dir=tmp_path, settings=QUIET)


def test_nan_in_the_graph_fails_loudly(tmp_path):
    """T10."""
    vit = ToyVit()
    vit.weights["2.fc1.b"][0] = np.nan
    (tmp_path / "graph.onnx").write_bytes(vit.graph().SerializeToString())
    with pytest.raises(BuildError, match="NaN or Inf"):
        quantize(tmp_path / "graph.onnx", FRAMES, out_dir=tmp_path / "out", settings=QUIET)


def test_plan_reads_back_and_knows_its_graph(done, float_path):
    report, folder = done
    assert load_plan(folder / "plan.json", sha256_of(float_path)) == report.plan
    with pytest.raises(BundleError, match="is of graph"):
        load_plan(folder / "plan.json", "0" * 64)


def test_plan_gives_every_float_node_a_reason(done):
    report, _ = done
    for node in report.plan.nodes:
        assert (node.precision == "float") == bool(node.reason)
        assert node.precision == "float" or node.act_scale == pytest.approx(max(-node.act_low, node.act_high) / 127)


def test_curve_is_saved_with_its_picture(done):
    _, folder = done
    record = json.loads((folder / "curve.json").read_text())
    assert [point["int8_nodes"] for point in record["measured"]] == [22, 15, 7, 0]
    assert record["measured"][-1]["measured"] == pytest.approx(1, abs=1e-9)
    assert all(point["latency_ms"] > 0 for point in record["measured"])
    assert len(record["predicted"]) == 23
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_dynamic_int8_runs_integers_but_does_not_cure_outliers(float_path, done, tmp_path):
    report, _ = done
    names = quantize_dynamic(float_path, tmp_path / "dynamic.onnx")
    assert len(names) == 18
    assert read_onnx_metadata(tmp_path / "dynamic.onnx") == {"brixel.spec": "{}"}
    frame = FRAMES[0][None]
    assert take_census("ort", tmp_path / "dynamic.onnx", frame, threads=1).integer == 18
    a, b = (OrtEngine(path, threads=1).run(frame)["dense"] for path in (float_path, tmp_path / "dynamic.onnx"))
    assert cosines(cells_of(a), cells_of(b)).mean() < 0.95 < report.lowered[0].fidelity["dense"].mean


@pytest.mark.parametrize("flat", [False, True])
def test_dynamic_int8_is_close_on_a_clean_model(tmp_path, flat):
    (tmp_path / "clean.onnx").write_bytes(ToyVit(flat=flat).graph().SerializeToString())
    assert len(quantize_dynamic(tmp_path / "clean.onnx", tmp_path / "dynamic.onnx")) == 18
    assert take_census("ort", tmp_path / "dynamic.onnx", FRAMES[0][None], threads=1).integer == 18
    a, b = (OrtEngine(tmp_path / name, threads=1).run(FRAMES[0][None]) for name in ("clean.onnx", "dynamic.onnx"))
    assert all(cosines(cells_of(a[name]), cells_of(b[name])).mean() > 0.998 for name in a)


def test_speed_verdict_compares_with_the_best_float_engine():
    verdict = speed_verdict(10.0, {"fp32": 25.0, "bf16": 10.5})
    assert not verdict.accepted
    assert verdict.speedup == pytest.approx(1.05)
    assert "INT8 takes 10.0 ms, bf16 takes 10.5 ms: 1.05 times faster" in verdict.message
    assert verdict.message.endswith("use bf16")
    assert speed_verdict(10.0, {"fp32": 11.0}).accepted


def test_speed_verdict_needs_something_to_compare():
    with pytest.raises(SpecError, match="cannot be compared"):
        speed_verdict(10.0, {})


def test_unknown_target_and_bound_are_refused():
    with pytest.raises(SpecError, match=r"must be some of ort, openvino, trt"):
        Settings(targets=("tflite",))
    with pytest.raises(SpecError, match=r"mean=1.5 is not between 0 and 1"):
        Bounds(mean=1.5)


def test_gemm_runs_on_integers_in_both_backends(tmp_path):
    (tmp_path / "flat.onnx").write_bytes(ToyVit(depth=2, flat=True).graph().SerializeToString())
    settings = dataclasses.replace(QUIET, targets=("ort", "openvino"))
    report = quantize(tmp_path / "flat.onnx", FRAMES[:20], out_dir=tmp_path, settings=settings)
    for entry in report.lowered:
        assert entry.census.integer == len(report.plan.integers) >= 12
        assert entry.fidelity["features"].mean > 0.998


def test_trt_target_is_verified_in_simulation(float_path, tmp_path):
    report = quantize(float_path, FRAMES, out_dir=tmp_path, settings=dataclasses.replace(QUIET, targets=("trt",)))
    entry = report.lowered[0]
    assert (entry.file, entry.verified_on, entry.census) == ("graph.int8.onnx", "ort", None)
    assert entry.fidelity["features"].mean > 0.995


def test_fidelity_numbers_by_hand():
    a = np.array([[1, 0], [0, 2]], np.float32)
    b = np.array([[0, 1], [0, 2]], np.float32)
    found = compare([a] * 200, [b] * 200)
    assert found.mean == pytest.approx(0.5)
    assert found.minimum == pytest.approx(0, abs=1e-9)
    assert found.rel_frobenius == pytest.approx(np.sqrt(2 / 5))
    assert found.sqnr_db == pytest.approx(-10 * np.log10(2 / 5))
    centre = np.array([0.5, 1.0])
    pairs = [(x - centre, y - centre) for x, y in zip(a, b, strict=True)]
    expected = np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs])
    assert found.centred == pytest.approx(expected)


def test_probe_agrees_with_itself_and_not_with_noise():
    rng = np.random.default_rng(0)
    features = (
        rng.standard_normal((2000, 16)).astype(np.float32) + 4 * np.eye(16, dtype=np.float32)[rng.integers(0, 6, 2000)]
    )
    noise = rng.standard_normal(features.shape).astype(np.float32)
    assert probe_agreement([features], [features]) == 1
    assert probe_agreement([features], [features + 0.01 * noise]) > 0.98
    assert probe_agreement([features], [rng.permutation(features)]) < 0.5


def test_cells_are_feature_vectors():
    grid = np.arange(24, dtype=np.float32).reshape(1, 4, 2, 3)
    assert (cells_of(grid)[1] == grid[0, :, 0, 1]).all()
    tokens = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert (cells_of(tokens) == tokens[0]).all()
    wide = np.arange(2 * 100 * 100, dtype=np.float32).reshape(1, 2, 100, 100)
    sampled = cells_of(wide)
    assert sampled.shape == (4096, 2) and len(np.unique(sampled[:, 0])) == 4096
    assert (sampled[:, 1] - sampled[:, 0] == 10000).all()


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
from brixel_edge.calib.quantize import Settings, quantize
from brixel_edge.machine.memory import peak_rss_bytes
rng = np.random.default_rng(0)
frames = (rng.integers(0, 255, (448, 448, 3), np.uint8) for _ in range(int(sys.argv[2])))
folder = Path(sys.argv[1])
quantize(folder / 'g.onnx', frames, out_dir=folder / sys.argv[2], settings=Settings(curve_points=0, shown=False))
print(peak_rss_bytes())
"""
    peaks = []
    for count in (64, 128):
        command = [sys.executable, "-c", code, str(tmp_path), str(count)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout))
    assert peaks[1] - peaks[0] < 64 * 3 * 448 * 448 * 3


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_qdq_graph_builds_with_tensorrt_rtx(done, tmp_path):
    """Parsed, typed and compiled ahead of time by the rules of TensorRT 11."""
    _, folder = done
    request = BuildRequest(
        graph=folder / "graph.int8.onnx",
        plan=tmp_path / "plan",
        kind="trt-rtx",
        precision="int8",
        settings=EngineSettings(),
    )
    build(request, lambda event: None)
    assert (tmp_path / "plan").stat().st_size > 1 << 20
