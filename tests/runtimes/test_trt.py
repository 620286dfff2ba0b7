"""The TensorRT runtime against acted releases and an acted CUDA, end to end: a plan is built there and run there."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from receipts import receipt_of

from brixel_edge.errors import BackendMissing, BuildError, BundleError, MemoryBudgetError, ParityError, SpecError
from brixel_edge.export.engine.build import build
from brixel_edge.export.engine.settings import BuildRequest, EngineSettings
from brixel_edge.model.bundle import write_receipt
from brixel_edge.model.engine_file import EngineIdentity, read_report, report_path
from brixel_edge.model.receipt_sections import EngineRecord
from brixel_edge.model.spec import ImageSpec, ModelSpec
from brixel_edge.proof.proof import proof_from_references, save_proof
from brixel_edge.runtimes.backends.first_load import passed_path
from brixel_edge.runtimes.backends.trt import open_engine, open_trt
from brixel_edge.runtimes.runtime import RuntimeSettings

STAND_INS = Path(__file__).parents[1] / "stand_ins"
RELEASES = ("8.6.1", "10.3.0", "10.13.0", "11.1")
NAMED_API = ("num_io_tensors", "execute_async_v3", "set_tensor_address")
MIB = 1 << 20

IMAGE = np.arange(32 * 48 * 3, dtype=np.int64).reshape(1, 32, 48, 3).astype(np.uint8)  # 18 times 0 to 255
MEAN = 127.5  # of 0 to 255; the acted engine gives mean + place in the list of tensors, features being number 1


@pytest.fixture
def acted(monkeypatch):
    """Live in a world: acted(release, **faults) puts its TensorRT and its CUDA in place of the real ones."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    stand_in = importlib.import_module("trt_stand_in")

    def enter(release="10.3.0", **faults):
        world = stand_in.World(release, **faults)
        monkeypatch.setitem(sys.modules, "tensorrt", world.tensorrt)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", world.cudart)
        return world

    return enter


@pytest.fixture
def plan_in(monkeypatch, tmp_path, acted):
    """Build a plan in a world: plan_in(world, graph, precision) gives its path, the report beside it."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    maker = importlib.import_module("small_graphs")

    def make(precision="fp32", graph="vit", folder="", **settings):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        model = getattr(maker, graph)(*([] if graph == "quantized" else [precision]))
        source = maker.save(model, root / f"graph.{precision}.onnx")
        request = BuildRequest(
            graph=source, plan=root / "part", kind="trt", precision=precision, settings=EngineSettings(**settings)
        )
        report = build(request, lambda event: None)
        plan = root / report.identity.file_name
        request.plan.rename(plan)
        report_path(plan).write_text(json.dumps(report.to_json()), encoding="utf-8")
        return plan

    return make


def change_report(plan, **changes):
    """Write other values into the report of a plan."""
    report = read_report(plan)
    assert report is not None
    changed = dataclasses.replace(report, **changes)
    report_path(plan).write_text(json.dumps(changed.to_json()), encoding="utf-8")


def spec_of(height=32, width=48, grid=(4, 6), dim=16):
    image = ImageSpec(height=height, width=width, mean=(0, 0, 0), std=(1, 1, 1))
    return ModelSpec(
        backbone="x", patch_px=8, dim=dim, tap_layers=(0,), adapter="none", image=image, grid=grid, licence="none"
    )


@pytest.mark.parametrize(
    ("release", "precision", "dtype"),
    [
        *[(release, "fp32", np.float32) for release in RELEASES],
        *[(release, "fp16", np.float16) for release in RELEASES],
        *[(release, "bf16", np.float32) for release in RELEASES[1:]],  # 8.6 has none
    ],
)
def test_frames_are_replayed_by_a_graph_on_every_release(acted, plan_in, release, precision, dtype):
    world = acted(release)
    runtime = open_trt(plan_in(precision), spec_of())
    assert runtime.graph_refusal is None
    assert world.values("cudaStreamBeginCapture") == ["cudaStreamCaptureModeThreadLocal"]
    assert (world.count("execute_async_v3"), world.count("execute_async_v2")) == (2, 0)  # once plain, once captured
    first = runtime.infer(IMAGE)
    second = runtime.infer(IMAGE // 2)
    assert world.count("execute_async_v3") == 2 and world.count("cudaGraphLaunch") == 2
    assert list(first) == ["features"]
    assert first["features"].dtype == dtype and first["features"].shape == (1, 16, 4, 6)
    # By hand: 128.5 has 9 significant bits, and the acted engine cuts bf16 to its 8; IMAGE // 2 has the mean 63.5.
    expected = 128 if precision == "bf16" else MEAN + 1
    np.testing.assert_array_equal(first["features"], np.full((1, 16, 4, 6), expected, dtype))
    np.testing.assert_array_equal(second["features"], np.full((1, 16, 4, 6), 64.5, dtype))
    runtime.close()
    runtime.close()
    assert world.cudart.live == []


def test_bits_of_bf16_are_widened_exactly(acted, plan_in, monkeypatch):
    acted("10.3.0")
    runtime = open_trt(plan_in("bf16"))
    buffer = runtime._outputs[0]
    # By hand: 0x3F80 = 1, 0xC000 = -2, 0x7F80 = inf, 0x0001 = 2^-133.
    buffer.host.flat[:4] = [0x3F80, 0xC000, 0x7F80, 0x0001]
    assert buffer.value().flat[:4].tolist() == [1.0, -2.0, np.inf, 2.0**-133]
    runtime.close()


def test_the_order_of_work_is_copy_run_copy(acted, plan_in):
    world = acted("10.3.0")
    plan = plan_in()
    world.calls.clear()
    open_trt(plan, has_cuda_graph=False).close()
    names = {"cudaMemcpyAsync", "execute_async_v3", "cudaStreamBeginCapture", "cudaGraphLaunch"}
    assert [(call, value) for call, value in world.calls if call in names][0::2] == [
        ("cudaMemcpyAsync", "cudaMemcpyHostToDevice"),
        ("cudaMemcpyAsync", "cudaMemcpyDeviceToHost"),
    ]
    assert world.count("cudaStreamBeginCapture") == 0


@pytest.mark.parametrize("fault", ["no_capture", "refuses_capture"])
def test_where_capture_fails_kernels_are_launched_one_by_one(acted, plan_in, fault):
    world = acted("10.3.0", **{fault: True})
    runtime = open_trt(plan_in())
    reasons = {"no_capture": "cudaErrorStreamCaptureUnsupported", "refuses_capture": "not permitted when stream"}
    assert reasons[fault] in str(runtime.graph_refusal)
    assert world.count("cudaGetLastError") == 1  # or the next call would see the old error
    np.testing.assert_array_equal(runtime.infer(IMAGE)["features"], np.float32(MEAN + 1))
    assert world.count("cudaGraphLaunch") == 0
    runtime.close()
    assert [handle for handle in world.cudart.live if handle not in world.cudart.graphs] == []


def test_bindings_serve_where_tensors_have_no_names(acted, plan_in):
    world = acted("8.6.1", hidden=NAMED_API)  # TensorRT before 8.5
    runtime = open_trt(plan_in("fp16"))
    np.testing.assert_array_equal(runtime.infer(IMAGE)["features"], np.float16(MEAN + 1))
    assert world.count("execute_async_v2") == 2
    runtime.close()
    assert world.cudart.live == []


def test_materialised_samples_stay_on_the_device(acted, plan_in, monkeypatch):
    world = acted("10.3.0")
    maker = importlib.import_module("small_graphs")

    def with_extra_output(precision):
        make = maker.GraphMaker(precision)
        return make.model(make.node("Relu", [make.map()], "materialised.0"), extra_outputs=["materialised.0"])

    monkeypatch.setattr(maker, "materialised", with_extra_output, raising=False)
    runtime = open_trt(plan_in(graph="materialised"))
    assert [tensor.name for tensor in runtime.tensors] == ["image", "features", "materialised.0"]
    world.calls.clear()
    assert list(runtime.infer(IMAGE)) == ["features"]
    runtime.close()
    assert len(runtime._outputs) == 1


def test_results_are_the_callers_own(acted, plan_in):
    acted("10.3.0")
    runtime = open_trt(plan_in())
    first = runtime.infer(IMAGE)["features"]
    runtime.infer(IMAGE // 2)
    np.testing.assert_array_equal(first, np.float32(MEAN + 1))
    runtime.close()


def test_memory_of_an_engine_is_known_and_limited(acted, plan_in):
    acted("10.3.0", weights=3 * MIB, activations=2 * MIB)
    plan = plan_in()
    runtime = open_trt(plan)
    assert runtime.device_bytes == 5 * MIB + 32 * 48 * 3 + 16 * 4 * 6 * 4
    runtime.close()
    with pytest.raises(MemoryBudgetError, match=r"needs 5\.0 MiB for weights and activations, 4\.0 MiB are allowed"):
        open_trt(plan, max_memory_bytes=4 * MIB)
    # The report knew too little: what the engine itself says counts as well.
    change_report(plan, activation_bytes=None)
    with pytest.raises(MemoryBudgetError, match=r"needs 5\.0 MiB"):
        open_trt(plan, max_memory_bytes=4 * MIB)


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ({"sm": 86, "gpu": "RTX 3060"}, r"was built for SM 87, this device is SM 86 \(RTX 3060\); rebuild it here: "),
        ({"release": "10.13.0"}, r"was built by TensorRT 10\.3\.0, here is 10\.13\.0 .*--engine trt-fp16"),
    ],
)
def test_a_plan_for_another_gpu_or_release_is_refused_before_it_is_loaded(acted, plan_in, here, message):
    acted("10.3.0")
    plan = plan_in("fp16")
    for has_report in (True, False):  # the name alone says it too
        if not has_report:
            report_path(plan).unlink()
        world = acted(**here)
        with pytest.raises(BundleError, match=message):
            open_trt(plan)
        assert world.count("deserialize") == 0


def test_compatible_plans_are_taken_where_they_promised(acted, plan_in):
    acted("10.3.0")
    plan = plan_in("fp16", hardware_compatibility="ampere+", is_version_compatible=True)
    world = acted("10.13.0", sm=89, gpu="RTX 4070", host_code=True)
    open_trt(plan).close()
    assert world.values("IRuntime.engine_host_code_allowed") == [True]
    assert world.values("deserialize") == [True]
    acted("10.3.0", sm=75)
    with pytest.raises(BundleError, match="this device is SM 75"):
        open_trt(plan)
    acted("8.6.1")
    with pytest.raises(BundleError, match=r"here is 8\.6\.1"):  # never backwards
        open_trt(plan)


def test_another_card_of_the_same_kind_is_only_a_warning(acted, plan_in, caplog):
    acted("10.3.0", gpu="Orin Nano")
    plan = plan_in("fp16")
    acted("10.3.0", gpu="AGX Orin")
    open_trt(plan).close()
    assert f"{plan.name} was built on Orin Nano, this is AGX Orin: it may be slow here" in caplog.messages


def test_an_engine_that_is_not_what_it_should_be_is_refused(acted, plan_in):
    acted("10.3.0")
    plan = plan_in()
    with pytest.raises(
        BundleError, match=r"maps pixels, features \(\(32, 48\), \(16, 4, 6\)\), its model \(\(48, 32\)"
    ):
        open_trt(plan, spec_of(height=48, width=32, grid=(6, 4)))
    with pytest.raises(BundleError, match=r"its model \(\(32, 48\), \(8, 4, 6\)\)"):
        open_trt(plan, spec_of(dim=8))
    tensors = read_report(plan).tensors
    swapped = (tensors[0], dataclasses.replace(tensors[1], dtype="fp16"))
    change_report(plan, tensors=swapped)
    with pytest.raises(
        BundleError, match=r"has .*features fp32 .*, its report says .*features fp16 .*; rebuild it here"
    ):
        open_trt(plan)


def test_a_refused_engine_is_freed_at_once(acted, plan_in):
    world = acted("10.3.0")
    plan = plan_in()
    with pytest.raises(BundleError) as caught:
        open_trt(plan, spec_of(dim=8))
    # The error holds the frames that held the engine; a board cannot wait for their end.
    assert caught.value is not None and [engine() for engine in world.engines] == [None]


def rewrite(plan, change):
    """Change the acted plan itself, and take its report away."""
    head, _, body = plan.read_bytes().partition(b"\n")
    record = json.loads(body)
    change(record["tensors"])
    plan.write_bytes(head + b"\n" + json.dumps(record).encode())
    report_path(plan).unlink(missing_ok=True)


def test_an_engine_without_our_input_and_output_is_refused(acted, plan_in):
    acted("10.3.0")
    plan = plan_in()
    rewrite(plan, lambda tensors: tensors[0].__setitem__(1, "FLOAT"))
    with pytest.raises(BundleError, match=r"does not take one image, uint8 \(1, H, W, 3\), but has image fp32"):
        open_trt(plan)
    rewrite(plan, lambda tensors: (tensors[0].__setitem__(1, "UINT8"), tensors[1].__setitem__(0, "logits")))
    with pytest.raises(BundleError, match="gives no features"):
        open_trt(plan)


def test_what_tensorrt_does_not_take_is_refused_with_its_reason(acted, plan_in, tmp_path):
    world = acted("10.3.0", refuses_plans=True)
    plan = plan_in()
    with pytest.raises(BundleError, match=r"not accepted by TensorRT 10\.3\.0 \(Error Code 6: .*\); rebuild it here"):
        open_trt(plan)
    foreign = tmp_path / "foreign.plan"
    foreign.write_bytes(b"\0" * 64)
    with pytest.raises(BundleError, match="not accepted"):
        open_trt(foreign)
    (tmp_path / "empty.plan").touch()
    with pytest.raises(BundleError, match="is empty"):
        open_trt(tmp_path / "empty.plan")
    for path in (tmp_path / "missing.plan", plan.parent / "graph.fp32.onnx"):
        with pytest.raises(BundleError, match="is not a TensorRT plan; make one with brixel-export"):
            open_trt(path)
    assert world.cudart.live == []


def test_failures_on_the_device_free_everything(acted, plan_in):
    acted("10.3.0")
    plan = plan_in()
    world = acted("10.3.0", no_device_memory=True)
    with pytest.raises(MemoryBudgetError, match=r"does not fit on this device: .*cudaErrorMemoryAllocation \(2\)"):
        open_trt(plan)
    assert world.cudart.live == []
    world = acted("10.3.0", no_context=True)
    with pytest.raises(MemoryBudgetError, match="no device memory to run"):
        open_trt(plan)
    for fault, message in (("execution_fails", "cudaErrorIllegalAddress"), ("refuses_addresses", "address of 'image'")):
        world = acted("10.3.0", **{fault: True})
        with pytest.raises(BuildError, match=message):
            open_trt(plan)
        assert world.cudart.live == []
    acted("10.3.0", device_fails=True)
    runtime = open_trt(plan)
    with pytest.raises(BuildError, match=r"failed on this frame: .*cudaErrorIllegalAddress \(700\)"):
        runtime.infer(IMAGE)


def test_wrong_frames_and_closed_engines_are_refused(acted, plan_in):
    acted("10.3.0")
    runtime = open_trt(plan_in())
    for image in (IMAGE.astype(np.float32), IMAGE[:, :16], IMAGE[0]):
        with pytest.raises(SpecError, match=r"the engine takes uint8 \(1, 32, 48, 3\)"):
            runtime.infer(image)
    runtime.infer(IMAGE[:, ::-1])  # not contiguous: it is copied
    runtime.close()
    with pytest.raises(SpecError, match="closed; open it again"):
        runtime.infer(IMAGE)


def test_the_plan_beside_a_graph_is_found(acted, plan_in, tmp_path):
    world = acted("10.3.0")
    for precision in ("fp16", "fp32"):
        plan_in(precision)
    (tmp_path / "engine.sm87.10.13.0.bf16.plan").write_bytes(b"of another release")
    runtime = open_engine(tmp_path / "graph.fp32.onnx", RuntimeSettings())
    assert runtime.infer(IMAGE)["features"].dtype == np.float32
    runtime.close()
    (tmp_path / "engine.sm87.10.3.0.fp32.plan").unlink()
    runtime = open_engine(tmp_path / "graph.fp32.onnx", RuntimeSettings())
    assert runtime.infer(IMAGE)["features"].dtype == np.float16
    runtime.close()
    (tmp_path / "engine.sm87.10.3.0.fp16.plan").unlink()
    with pytest.raises(
        BundleError, match=r"no engine for this device \(it has engine\.sm87\.10\.13\.0\.bf16\.plan\); make"
    ):
        open_engine(tmp_path / "graph.fp32.onnx", RuntimeSettings())
    assert world.cudart.live == []


def beside(plan, features, *, proven=False):
    """Make the plan's folder a model directory whose proof is one image and these features of it."""
    report = read_report(plan)
    engine = EngineRecord(backend="trt", graph="graph.fp16.onnx", report=report, proven=proven)
    write_receipt(plan.parent, receipt_of(spec_of(), engines={plan.name: engine}))
    save_proof(proof_from_references(["a"], [IMAGE], [features]), plan.with_name("proof.npz"))


RIGHT = np.full((1, 16, 4, 6), MEAN + 1, np.float32)


def opened(plan, **settings):
    open_engine(plan, RuntimeSettings(**settings)).close()


def test_an_engine_passes_its_gate_once_on_a_device(acted, plan_in):
    world = acted("10.3.0", gpu="Orin")
    plan = plan_in()
    beside(plan, RIGHT)
    for count in (1, 1):  # launches so far: the second load has none of its own
        opened(plan)
        assert world.count("cudaGraphLaunch") == count
    assert json.loads(passed_path(plan).read_text())["device"] == "Orin"
    other = acted("10.3.0", gpu="Orin Nano")
    opened(plan)
    opened(plan)
    assert other.count("cudaGraphLaunch") == 1
    # A rebuilt engine is another one.
    change_report(plan, sha256="0" * 64)
    opened(plan)
    assert other.count("cudaGraphLaunch") == 2


def test_an_engine_that_is_wrong_here_is_never_handed_out(acted, plan_in):
    world = acted("10.3.0")
    plan = plan_in()
    beside(plan, RIGHT * np.float32(1.1))
    for _ in range(2):
        with pytest.raises(
            ParityError, match=r"computes something else on Orin than PyTorch did .*; see brixel-verify"
        ):
            opened(plan)
    assert not passed_path(plan).exists()
    assert world.cudart.live == []
    opened(plan, is_proven_first=False)  # brixel-verify shows it with its figures


def test_what_the_export_has_proven_on_this_device_is_not_proven_again(acted, plan_in):
    world = acted("10.3.0")
    plan = plan_in()
    beside(plan, RIGHT, proven=True)
    opened(plan)
    assert world.count("cudaGraphLaunch") == 0
    other = acted("10.3.0", gpu="Orin Nano")
    opened(plan)
    assert other.count("cudaGraphLaunch") == 1


def test_a_directory_that_cannot_be_written_to_is_asked_at_every_load(acted, plan_in):
    world = acted("10.3.0")
    plan = plan_in()
    beside(plan, RIGHT)
    passed_path(plan).mkdir()
    opened(plan)
    opened(plan)
    assert world.count("cudaGraphLaunch") == 2


def test_a_plan_without_a_proof_beside_it_is_opened_as_it_is(acted, plan_in):
    world = acted("10.3.0")
    opened(plan_in())
    assert world.count("cudaGraphLaunch") == 0


def test_missing_backends_are_named(acted, plan_in, monkeypatch):
    acted("10.3.0")
    plan = plan_in()
    acted("10.3.0", no_gpu=True)
    with pytest.raises(BackendMissing, match="no usable NVIDIA device"):
        open_trt(plan)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendMissing, match=r"the engine needs tensorrt .*pip install 'brixel-edge\[trt\]'"):
        open_trt(plan)
    rtx = EngineIdentity(kind="trt-rtx", compute_capabilities=(86,), version="1.7.1", precision="fp16").file_name
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    plan.with_name(rtx).write_bytes(b"x")
    with pytest.raises(BackendMissing, match=r"the engine needs tensorrt_rtx .*brixel-edge\[trt-rtx\]"):
        open_trt(plan.with_name(rtx))


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-python is not installed here")
def test_the_acted_cuda_has_nothing_that_cuda_python_lacks(monkeypatch):
    real = pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)
    monkeypatch.syspath_prepend(str(STAND_INS))
    stand_in = importlib.import_module("cuda_stand_in")
    calls = [name for name in vars(stand_in.Cudart) if name.startswith("cuda")]
    assert len(calls) >= 20 and [name for name in calls if not hasattr(real, name)] == []
    for name in ("cudaStreamCaptureMode", "cudaMemcpyKind", "cudaDeviceAttr"):
        acted = {member.name: int(member) for member in getattr(stand_in.Cudart, name)}
        assert acted == {member: int(getattr(getattr(real, name), member)) for member in acted}
    assert {error.name: int(error) for error in stand_in.Error} == {
        error.name: int(getattr(real.cudaError_t, error.name)) for error in stand_in.Error
    }


def test_importing_the_runtime_imports_no_backend():
    names = ("torch", "onnx", "tensorrt", "tensorrt_rtx", "cuda", "onnxruntime")
    code = f"import sys, brixel_edge.runtimes.backends.trt; print([m for m in {names} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.trt
@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is None, reason="TensorRT is not installed here")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_real_engine_gives_what_onnx_says(monkeypatch, tmp_path, precision):
    from onnx.reference import ReferenceEvaluator

    from brixel_edge.export.engine.to_engine import engine_from_onnx

    monkeypatch.syspath_prepend(str(STAND_INS))
    maker = importlib.import_module("small_graphs")
    graph = maker.save(maker.vit(precision), tmp_path / f"graph.{precision}.onnx")
    try:
        built = engine_from_onnx(graph, precision=precision, out=tmp_path)
    except BackendMissing as error:
        pytest.skip(str(error))
    runtime = open_trt(built.plan, spec_of())
    found = runtime.infer(IMAGE)["features"]
    runtime.close()
    expected = ReferenceEvaluator(maker.vit("fp32")).run(["features"], {"image": IMAGE})[0]
    tolerance = {"fp32": 1e-4, "fp16": 2e-2}[precision]
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)
