"""The three lowerings of deformable sampling."""

import numpy as np
import onnx
import onnxruntime
import pytest

from brixel_edge.export.graph.passes import SAMPLES_PREFIX, materialised_samples


def run(model: onnx.ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": image}), strict=True))


@pytest.fixture(scope="module")
def graphs(mini_graph) -> dict[str, onnx.ModelProto]:
    native, gathered = (onnx.load(str(mini_graph(sampler))) for sampler in ("gridsample", "gather"))
    materialised = onnx.shape_inference.infer_shapes(native)
    assert materialised_samples(materialised) == 6
    return {"gridsample": native, "gather": gathered, "materialised": materialised}


def test_the_lowerings_are_equal_in_onnxruntime(graphs, mini_images):
    for image in mini_images:
        features = {name: run(model, image)["features"] for name, model in graphs.items()}
        for name in ("gather", "materialised"):
            assert np.abs(features[name] - features["gridsample"]).max() < 1e-5, name


def test_each_lowering_is_what_its_name_says(graphs):
    counts = {
        name: (
            sum(node.op_type == "GridSample" for node in model.graph.node),
            sum(node.op_type == "GatherElements" for node in model.graph.node),
        )
        for name, model in graphs.items()
    }
    assert counts == {"gridsample": (6, 0), "gather": (0, 24), "materialised": (6, 0)}
    modes = {
        a.s
        for n in graphs["gridsample"].graph.node
        if n.op_type == "GridSample"
        for a in n.attribute
        if a.name == "mode"
    }
    assert modes == {b"bilinear"}  # the opset-16 name; "linear" is read as nearest by some TensorRT releases


def test_materialised_samples_are_outputs_that_hold_the_samples(graphs, mini_images):
    model = graphs["materialised"]
    onnx.checker.check_model(model, full_check=True)
    results = run(model, mini_images[0])
    assert list(results) == ["features", *(f"{SAMPLES_PREFIX}{count}" for count in range(6))]
    for count in range(6):
        assert results[f"{SAMPLES_PREFIX}{count}"].shape == (16, 4, 4, 8 * 12)  # heads, width, points, queries


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_users_of_a_model_do_not_see_materialised_samples(mini_graph, mini_images, backend):
    from brixel_edge.runtimes.engines import open_runtime

    if backend == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    results = []
    for sampler in ("materialised", "gather"):
        runtime = open_runtime(mini_graph(sampler), backend)
        results.append(runtime.infer(mini_images[0]))
        runtime.close()
    assert [list(result) for result in results] == [["features"], ["features"]]
    assert np.abs(results[0]["features"] - results[1]["features"]).max() < 1e-5
