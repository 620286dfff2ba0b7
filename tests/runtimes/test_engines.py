"""ONNX Runtime and OpenVINO: the same numbers as by hand, arrays that are the caller's, refusals that help."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tiny_model

from brixel_edge.errors import BackendMissing, BundleError, SpecError
from brixel_edge.runtimes import engines as base
from brixel_edge.runtimes.engines import choose_backend, open_runtime
from brixel_edge.runtimes.runtime import RuntimeSettings

BACKENDS = ["ort", "openvino"]


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(params=BACKENDS)
def backend(request):
    if not base.has_backend(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


def test_features_are_those_by_hand(backend, graph, image):
    runtime = open_runtime(graph, backend, RuntimeSettings(threads=1))
    outputs = runtime.infer(image)
    runtime.close()
    assert list(outputs) == ["features"]
    features = outputs["features"]
    assert features.shape == (1, 4, 8, 12)
    assert features.dtype == np.float32
    np.testing.assert_allclose(
        features[0, :3].transpose(1, 2, 0), tiny_model.cell_means(image[0].astype(float)), atol=1e-3
    )
    assert (features[0, 3] == tiny_model.CONSTANT).all()


def test_outputs_are_the_caller_s(backend, graph, image):
    """No call may write into what an earlier one gave, and closing may not free it."""
    runtime = open_runtime(graph, backend)
    first = runtime.infer(image)["features"]
    kept = first.copy()
    second = runtime.infer(255 - image)["features"]
    assert not np.shares_memory(first, second)
    runtime.close()
    runtime.close()
    assert (first == kept).all()
    assert first.flags.writeable


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[0],
        lambda x: x.astype(np.float32),
        lambda x: x[:, :, ::2],
        lambda x: x[:, ::-1],
        lambda x: x[..., :1],
    ],
    ids=["no batch", "float", "half the width", "strides", "grey"],
)
def test_other_images_are_refused(backend, graph, image, change):
    runtime = open_runtime(graph, backend)
    with pytest.raises(SpecError, match=r"the graph takes contiguous uint8 \(1, 32, 48, 3\)"):
        runtime.infer(change(image))


def test_a_closed_runtime_says_so(backend, graph, image):
    runtime = open_runtime(graph, backend)
    runtime.close()
    with pytest.raises(SpecError, match="this runtime is closed"):
        runtime.infer(image)


def test_a_file_that_is_no_graph_is_refused(backend, tmp_path):
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"\x08\x07junk" * 50)
    with pytest.raises(BundleError, match=r"cannot run .*junk\.onnx \(.+\); export it again"):
        open_runtime(path, backend)


def test_the_backends_agree(graph, image):
    if not base.has_backend("openvino"):
        pytest.skip("openvino is not installed")
    ours, theirs = (open_runtime(graph, backend).infer(image)["features"] for backend in BACKENDS)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_bf16_is_really_another_precision(graph, image):
    openvino = pytest.importorskip("openvino")
    settings = RuntimeSettings(openvino_precision="bf16")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(SpecError, match="this CPU has no bfloat16"):
            open_runtime(graph, "openvino", settings)
        return
    rough = open_runtime(graph, "openvino", settings).infer(image)["features"]
    exact = tiny_model.cell_means(image[0].astype(float)).transpose(2, 0, 1)
    error = np.abs(rough[0, :3] - exact).max() / 255
    assert 1e-5 < error < 1e-2


def test_auto_prefers_openvino_on_x86_only(monkeypatch):
    monkeypatch.setattr(base, "has_backend", lambda name: True)
    monkeypatch.setattr(base, "_has_cuda_build", lambda: False)
    monkeypatch.setattr(base.platform, "machine", lambda: "x86_64")
    assert choose_backend() == "openvino"
    monkeypatch.setattr(base.platform, "machine", lambda: "aarch64")
    assert choose_backend() == "ort"
    monkeypatch.setattr(base.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(base, "has_backend", lambda name: name == "ort")
    assert choose_backend("auto") == "ort"


@pytest.mark.parametrize(
    ("backend", "remedy"),
    [
        ("ort", "pip install onnxruntime"),
        ("openvino", r"pip install 'brixel-edge\[openvino\]'"),
        ("trt", r"on Jetson use JetPack's own .* pip install 'brixel-edge\[trt\]'"),
    ],
)
def test_a_missing_backend_says_what_to_install(monkeypatch, backend, remedy):
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match=f"backend '{backend}' needs .*not installed here: {remedy}") as raised:
        choose_backend(backend)
    assert raised.value.exit_code == 3


def test_a_broken_installation_says_why(monkeypatch, graph):
    monkeypatch.setitem(sys.modules, "brixel_edge.runtimes.backends.ort", None)
    with pytest.raises(BackendMissing, match="backend 'ort' cannot be loaded"):
        open_runtime(graph, "ort")


def test_an_unknown_backend_is_refused():
    with pytest.raises(SpecError, match="backend 'cuda' is not one of auto, ort, openvino, trt"):
        choose_backend("cuda")


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(SpecError, match="threads=0 is not positive"):
        RuntimeSettings(threads=0)
    with pytest.raises(SpecError, match="'fp32' is not one of auto, f32, bf16"):
        RuntimeSettings(openvino_precision="fp32")
