"""Whether a TensorRT plan is the right one for this device, release and model, and what is said where it is not."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
from acted_plan import IMAGE, change_report, spec_of

from brixel_edge.errors import BackendMissing, BundleError
from brixel_edge.model.engine_file import EngineIdentity, EngineTensor, read_report, report_path
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.model.spec import ImageSpec, ModelSpec
from brixel_edge.runtimes.backends.trt import open_engine, open_trt
from brixel_edge.runtimes.backends.trt_checks import check_tensors
from brixel_edge.runtimes.runtime import RuntimeSettings


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


def test_compatible_plans_are_taken_where_they_promised_but_not_on_a_jetson(acted, plan_in):
    acted("10.3.0", sm=86)
    plan = plan_in("fp16", hardware_compatibility="ampere+", is_version_compatible=True)
    world = acted("10.13.0", sm=89, gpu="RTX 4070", host_code=True)
    open_trt(plan).close()
    assert world.values("IRuntime.engine_host_code_allowed") == [True]
    assert world.values("deserialize") == [True]
    for sm in (75, 87):
        acted("10.3.0", sm=sm)
        with pytest.raises(BundleError, match=f"this device is SM {sm}"):
            open_trt(plan)
    acted("8.6.1", sm=86)
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


def tensors(**outputs):
    """Of an engine: the image, and outputs with their shapes, `materialised.0` among them."""
    given = {"image": (1, 32, 48, 3), **outputs, "materialised.0": (1, 2, 2, 2)}
    return tuple(
        EngineTensor(name=name, dtype="uint8" if name == "image" else "fp32", shape=shape, is_input=name == "image")
        for name, shape in given.items()
    )


def test_an_engine_gives_what_its_model_says_features_answers_or_both():
    image = ImageSpec(height=32, width=48, mean=(0, 0, 0), std=(1, 1, 1))
    plain = ModelSpec(
        backbone="x", patch_px=8, dim=16, tap_layers=(0,), adapter="none", image=image, grid=(4, 6), licence="none"
    )
    alone = dataclasses.replace(plain, head=HeadSpec(kind="pca", outputs=3))
    both = dataclasses.replace(plain, head=HeadSpec(kind="pca", outputs=3, keeps_features=True))
    features, head = {"features": (1, 16, 4, 6)}, {"head": (1, 3, 4, 6)}
    for spec, outputs in ((plain, features), (alone, head), (both, features | head), (None, head), (None, features)):
        assert check_tensors("e", tensors(**outputs), None, spec, "rebuild") == list(outputs)
    with pytest.raises(BundleError, match="gives no features, float"):
        check_tensors("e", tensors(**head), None, plain, "rebuild")
    with pytest.raises(BundleError, match="gives no features and head, float"):
        check_tensors("e", tensors(**features), None, both, "rebuild")
    with pytest.raises(BundleError, match=r"maps pixels, head \(\(32, 48\), \(5, 4, 6\)\), its model"):
        check_tensors("e", tensors(head=(1, 5, 4, 6)), None, alone, "rebuild")
