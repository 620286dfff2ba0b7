"""Every pattern that we export, parsed and built by a real TensorRT on the CPU: TensorRT-RTX, ahead of time.

It proves acceptance, not numbers: its type and parse rules are those of TensorRT 11, its kernels run only on a card.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from brixel_edge.errors import BuildError, BundleError, SpecError
from brixel_edge.export.engine.build import build
from brixel_edge.export.engine.settings import RTX_CAPABILITIES, BuildRequest, EngineSettings
from brixel_edge.export.engine.to_engine import engine_from_onnx
from brixel_edge.model.engine_file import read_report

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None,
        reason="tensorrt-rtx is not installed: pip install 'brixel-edge[trt-rtx]'",
    ),
]


def build_here(graph, precision, tmp_path, **settings):
    request = BuildRequest(
        graph=graph, plan=tmp_path / "plan", kind="trt-rtx", precision=precision, settings=EngineSettings(**settings)
    )
    events = []
    return build(request, events.append), events


PATTERNS = [
    *[
        ((pattern, precision), precision)
        for pattern in ("vit", "grid_sample", "gathered", "group_norm", "gelu", "upsampled", "shuffled")
        for precision in ("fp32", "fp16", "bf16")
    ],
    *[(("vit", precision, opset), precision) for precision in ("fp32", "fp16") for opset in (18, 19)],
    (("vit_with_islands", "fp16"), "fp16"),
    (("vit_with_islands", "bf16"), "bf16"),
    (("transposed_convolution", "fp16"), "fp16"),
    (("quantized", "fp32"), "int8"),
    (("quantized", "fp16"), "int8"),
]


@pytest.mark.parametrize(
    ("graph", "precision"), PATTERNS, ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value))
)
def test_pattern_parses_and_builds(graphs, tmp_path, graph, precision):
    report, events = build_here(graphs(*graph), precision, tmp_path)
    assert (tmp_path / "plan").stat().st_size == report.size_bytes > 1000
    assert report.typing == "strong" and report.attempts[0].error is None
    features = next(tensor for tensor in report.tensors if not tensor.is_input)
    base = graph[1] if precision == "int8" else precision
    assert features.name == "features" and features.dtype == base
    # The graph's own types arrive in the network: nothing else was chosen by the builder.
    assert report.layer_types[base] > 0
    assert (report.layer_types.get("int8", 0) > 0) == (precision == "int8")
    assert report.weights_bytes is not None and report.activation_bytes is not None
    assert any(event["event"] == "phase" and event["parent"] is None for event in events)


@pytest.mark.parametrize(
    ("graph", "changes", "message"),
    [
        ("transpose_first", {}, r"cannot read the graph: Transpose turn_uint8: .*first input has type UInt8"),
        ("upsampled", {"antialias": 1}, r"cannot read the graph: Resize .*ntialias"),
        ("integer_bias", {}, r"cannot read the graph: DequantizeLinear .*bias_DequantizeLinear.*Int32"),
    ],
)
def test_what_tensorrt_refuses_is_told_in_one_line(graphs, tmp_path, graph, changes, message):
    with pytest.raises(BuildError, match=message) as caught:
        precision = "int8" if graph == "integer_bias" else "fp32"
        build_here(graphs(graph, **changes), precision, tmp_path)
    assert "\n" not in str(caught.value) and "/_src/" not in str(caught.value) and "cudaError" not in str(caught.value)


def test_the_built_in_default_model_builds(tmp_path):
    from brixel_edge.model.bundle import DEFAULT_MODEL

    report, _ = build_here(DEFAULT_MODEL, "fp32", tmp_path, rtx_capabilities=(86,))
    assert [(tensor.name, tensor.dtype) for tensor in report.tensors] == [("image", "uint8"), ("features", "fp32")]
    assert report.layer_types["fp32"] > 200 and not {"fp16", "bf16", "int8"} & report.layer_types.keys()


def test_bf16_convolution_backwards_fails_as_the_table_says(graphs, tmp_path):
    events = []
    request = BuildRequest(
        graph=graphs("transposed_convolution", "bf16"),
        plan=tmp_path / "plan",
        kind="trt-rtx",
        precision="bf16",
        settings=EngineSettings(),
    )
    with pytest.raises(BuildError, match="did not build the graph"):
        build(request, events.append)
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert any(
        "ConvTranspose in bf16 parses and then fails to build (rerun-io/examples-monorepo#106)" in w for w in warnings
    )


def test_turing_takes_fp16_and_refuses_fp32(graphs, tmp_path):
    report, _ = build_here(graphs("vit", "fp16"), "fp16", tmp_path, rtx_capabilities=(75,))
    assert report.identity.compute_capabilities == (75,)
    with pytest.raises(SpecError, match=r"no fp32 products for SM 75 \(Turing\), .* leave 75 out of --rtx-sm"):
        build_here(graphs("vit", "fp32"), "fp32", tmp_path, rtx_capabilities=(75, 86))
    with pytest.raises((BuildError, SpecError), match=r"FP32 GEMM is not supported|no fp32 products for SM 75"):
        build_here(graphs("quantized", "fp32"), "int8", tmp_path, rtx_capabilities=(75,))


def test_every_card_of_our_list_is_one_of_tensorrt_rtx():
    trt = importlib.import_module("tensorrt_rtx")
    real = {int(name[2:]) for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    assert set(RTX_CAPABILITIES) == real


def test_settings_without_meaning_here_are_refused(graphs, tmp_path):
    with pytest.raises(SpecError, match="--hardware-compatibility is not for TensorRT-RTX"):
        build_here(graphs("vit"), "fp32", tmp_path, hardware_compatibility="ampere+")
    with pytest.raises(BuildError, match="has no weak typing; it has strong"):
        build_here(graphs("vit"), "fp32", tmp_path, typing="weak")
    with pytest.raises(SpecError, match="--version-compatible is not for TensorRT-RTX"):
        build_here(graphs("vit"), "fp32", tmp_path, is_version_compatible=True)
    with pytest.raises(SpecError, match="--dla is not for TensorRT-RTX"):
        build_here(graphs("vit"), "fp32", tmp_path, dla_core=0)


def test_engine_in_a_process_of_its_own_is_the_same_bytes_again(graphs, tmp_path):
    graph = graphs("vit", "fp16")
    first, _ = (engine_from_onnx(graph, precision="fp16", out=tmp_path / name, kind="trt-rtx") for name in ("a", "b"))
    assert first.plan.name.startswith("engine.sm86+sm89+sm120.rtx1.")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [first.plan.name, first.plan.name + ".json"]
    for name in (first.plan.name, first.plan.name + ".json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert read_report(first.plan) == first.report.without_measured()


def test_a_plan_is_refused_with_the_reason_where_no_card_can_run_it(graphs, tmp_path):
    from brixel_edge.errors import BackendMissing
    from brixel_edge.machine.cuda import current_device, import_cudart
    from brixel_edge.runtimes.backends.trt import open_trt

    built = engine_from_onnx(graphs("vit", "fp16"), precision="fp16", out=tmp_path, kind="trt-rtx")
    try:
        capability = current_device(import_cudart()).compute_capability
    except BackendMissing:
        with pytest.raises(BackendMissing, match="no usable NVIDIA device"):
            open_trt(built.plan)
        return
    if capability in built.report.identity.compute_capabilities:
        open_trt(built.plan).close()
    else:
        with pytest.raises(BundleError, match=f"this device is SM {capability}"):
            open_trt(built.plan)


def test_facts_added_to_the_recorded_surfaces_hold_in_a_real_binding():
    trt = importlib.import_module("tensorrt_rtx")
    names = {"IRuntime": "Runtime", "IBuilder": "Builder"}
    surfaces = json.loads((Path(__file__).parents[2] / "trt_surfaces.json").read_text(encoding="utf-8"))
    for addition in surfaces["additions"]:
        if "11.1" in addition["releases"]:
            real = getattr(trt, names.get(addition["class"], addition["class"]))
            missing = [member for member in addition["members"] if not hasattr(real, member)]
            assert not missing, (addition["class"], missing)


def test_building_needs_no_torch(graphs, tmp_path):
    graph = graphs("vit", "fp16")
    code = (
        "import sys; from pathlib import Path; from brixel_edge.export.engine.to_engine import engine_from_onnx; "
        "graph, out = map(Path, sys.argv[1:]); engine_from_onnx(graph, precision='fp16', out=out, kind='trt-rtx'); "
        "print([m for m in ('torch', 'onnx', 'timm', 'tensorrt_rtx') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(graph), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
