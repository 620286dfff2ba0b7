"""The TensorRT runtime against acted releases and an acted CUDA, end to end: a plan is built there and run there."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import cuda_stand_in
import numpy as np
import pytest
import small_graphs
from acted_plan import IMAGE, MEAN, spec_of

from brixel_edge.errors import BackendMissing, BuildError, BundleError, MemoryBudgetError, SpecError
from brixel_edge.runtimes.backends.trt import open_trt

RELEASES = ("8.6.1", "10.3.0", "10.13.0", "11.1")
MIB = 1 << 20


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
    assert world.count("execute_async_v3") == 2  # once plain, once captured
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


def test_the_order_of_work_is_copy_run_copy_once_plain_and_once_captured(acted, plan_in):
    world = acted("10.3.0")
    plan = plan_in()
    world.calls.clear()
    open_trt(plan).close()
    names = {"cudaMemcpyAsync", "execute_async_v3", "cudaStreamBeginCapture", "cudaGraphLaunch"}
    steps = [value if call == "cudaMemcpyAsync" else call for call, value in world.calls if call in names]
    work = ["cudaMemcpyHostToDevice", "execute_async_v3", "cudaMemcpyDeviceToHost"]
    assert steps == [*work, "cudaStreamBeginCapture", *work]


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


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("fp16", np.float16), ("bf16", np.float32)])
def test_a_board_of_one_memory_copies_nothing(acted, plan_in, precision, dtype):
    world = acted("10.3.0", integrated=True)
    runtime = open_trt(plan_in(precision), spec_of())
    assert runtime.graph_refusal is None
    assert world.cudart.device == {} and len(world.cudart.mapped) == 2
    first, second = runtime.infer(IMAGE)["features"], runtime.infer(IMAGE // 2)["features"]
    assert world.count("cudaMemcpyAsync") == 0
    # By hand, as where it is copied.
    np.testing.assert_array_equal(first, np.full((1, 16, 4, 6), 128 if precision == "bf16" else MEAN + 1, dtype))
    np.testing.assert_array_equal(second, np.full((1, 16, 4, 6), 64.5, dtype))
    runtime.close()
    assert world.cudart.live == []


def test_materialised_samples_stay_on_the_device(acted, plan_in, monkeypatch):
    world = acted("10.3.0")

    def with_extra_output(precision):
        make = small_graphs.GraphMaker(precision)
        return make.model(make.node("Relu", [make.map()], "materialised.0"), extra_outputs=["materialised.0"])

    monkeypatch.setattr(small_graphs, "materialised", with_extra_output, raising=False)
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


def test_memory_of_an_engine_is_known(acted, plan_in):
    acted("10.3.0", weights=3 * MIB, activations=2 * MIB)
    runtime = open_trt(plan_in())
    assert runtime.device_bytes == 5 * MIB + 32 * 48 * 3 + 16 * 4 * 6 * 4
    runtime.close()


def test_a_refused_engine_is_freed_at_once(acted, plan_in):
    world = acted("10.3.0")
    plan = plan_in()
    with pytest.raises(BundleError) as caught:
        open_trt(plan, spec_of(dim=8))
    # The error holds the frames that held the engine; a board cannot wait for their end.
    assert caught.value is not None and [engine() for engine in world.engines] == [None]


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


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-python is not installed here")
def test_the_acted_cuda_has_nothing_that_cuda_python_lacks():
    real = pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)
    calls = [name for name in vars(cuda_stand_in.Cudart) if name.startswith("cuda")]
    assert len(calls) >= 20 and [name for name in calls if not hasattr(real, name)] == []
    for name in ("cudaStreamCaptureMode", "cudaMemcpyKind", "cudaDeviceAttr"):
        acted = {member.name: int(member) for member in getattr(cuda_stand_in.Cudart, name)}
        assert acted == {member: int(getattr(getattr(real, name), member)) for member in acted}
    assert {error.name: int(error) for error in cuda_stand_in.Error} == {
        error.name: int(getattr(real.cudaError_t, error.name)) for error in cuda_stand_in.Error
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
def test_a_real_engine_gives_what_onnx_says(tmp_path, precision):
    from onnx.reference import ReferenceEvaluator

    from brixel_edge.export.engine.to_engine import engine_from_onnx

    graph = small_graphs.save(small_graphs.vit(precision), tmp_path / f"graph.{precision}.onnx")
    try:
        built = engine_from_onnx(graph, precision=precision, out=tmp_path)
    except BackendMissing as error:
        pytest.skip(str(error))
    runtime = open_trt(built.plan, spec_of())
    found = runtime.infer(IMAGE)["features"]
    runtime.close()
    expected = ReferenceEvaluator(small_graphs.vit("fp32")).run(["features"], {"image": IMAGE})[0]
    tolerance = {"fp32": 1e-4, "fp16": 2e-2}[precision]
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)
