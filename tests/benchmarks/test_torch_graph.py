"""Our graphs executed by PyTorch, against ONNX Runtime, operator by operator and whole."""

import importlib

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch_graph import TorchGraph

from brixel_edge.errors import BuildError
from brixel_edge.export.graph.walk import element_types
from brixel_edge.export.half.islands import find_islands
from brixel_edge.export.half.ranges import measure_ranges
from brixel_edge.export.half.to_half import half_from_float
from brixel_edge.export.judges import RoundingJudge
from brixel_edge.proof.parity import GATES, compare

ORT = ["CPUExecutionProvider"]


def run(model: onnx.ModelProto, image: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        return [entry.float().numpy() for entry in TorchGraph(model)(torch.from_numpy(image))]


@pytest.mark.parametrize("sampler", ["gridsample", "gather", "materialised"])
def test_the_whole_graph_equals_onnxruntime(mini_graph, mini_images, sampler):
    model = onnx.load(str(mini_graph(sampler)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=ORT)
    expected, found = session.run(None, {"image": mini_images[0]}), run(model, mini_images[0])
    assert len(found) == len(expected) == (7 if sampler == "materialised" else 1)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-4 * max(1, np.abs(theirs).max())


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def half(request, mini_graph, mini_images):
    plain = onnx.shape_inference.infer_shapes(onnx.load(str(mini_graph("gridsample"))))
    islands = [island.node for island in find_islands(plain, measure_ranges(plain, mini_images[:1]), request.param)]
    return request.param, half_from_float(plain, request.param, islands)


def test_a_half_graph_runs_in_its_own_types(half, mini_images, monkeypatch):
    """Every node gives the type that onnx infers for it, and the islands give fp32."""
    precision, typed = half
    types = element_types(onnx.shape_inference.infer_shapes(typed, strict_mode=True))
    graph = TorchGraph(typed)
    kinds = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}
    seen = {}

    def watched(function, outputs):
        def call(*tensors):
            results = function(*tensors)
            listed = results if isinstance(results, (tuple, list)) else (results,)
            seen.update((name, tensor.dtype) for name, tensor in zip(outputs, listed, strict=True))
            return results

        return call

    monkeypatch.setattr(
        graph, "_steps", [(watched(f, outputs), inputs, outputs, done) for f, inputs, outputs, done in graph._steps]
    )
    with torch.inference_mode():
        graph(torch.from_numpy(mini_images[0]))
    floating = {name: kind for name, kind in seen.items() if kind.is_floating_point}
    assert len(floating) > 500
    assert floating == {name: kinds[types[name]] for name in floating}
    assert set(floating.values()) == {torch.float32, kinds[{"fp16": 10, "bf16": 16}[precision]]}


def test_a_half_graph_gives_what_rounding_says(half, mini_graph, mini_images, tmp_path):
    """Two ways to the same rounded arithmetic: torch's half kernels, and fp32 with every half tensor rounded."""
    precision, typed = half
    onnx.save(typed, str(tmp_path / "half.onnx"))
    plain = run(onnx.load(str(mini_graph("gridsample"))), mini_images[0])
    (outputs,) = RoundingJudge().outputs(tmp_path / "half.onnx", mini_images[:1])
    rounded = [outputs["features"]]
    ours = run(typed, mini_images[0])
    assert compare(plain, ours).passes(GATES[precision])
    assert 0.5 < compare(plain, ours).frobenius / compare(plain, rounded).frobenius < 2


def test_an_int8_graph_equals_onnxruntime(mini_graph, mini_images, tmp_path):
    all_integer = importlib.import_module("all_integer")
    all_integer.write(mini_graph("gridsample"), mini_images[:2], tmp_path / "q.onnx")
    model = onnx.load(str(tmp_path / "q.onnx"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # its fusions round again
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=ORT)
    expected = session.run(None, {"image": mini_images[0]})
    # A value on the border between two integers may fall to either side.
    assert compare(expected, run(model, mini_images[0])).cosine_p01 > 0.999


def ints(*values):
    return np.array(values, np.int64)


def floats(*values):
    return np.array(values, np.float32)


SMALL = np.random.default_rng(0).standard_normal
# operator -> (shape of x, further inputs, attributes)
NODES = {
    "slice, steps": ("Slice", (2, 7, 5), [ints(1, -4), ints(9, 99), ints(1, 2), ints(2, 1)], {}),
    "slice, no axes": ("Slice", (4, 5), [ints(1, 0), ints(3, -1)], {}),
    "split, sizes": ("Split", (2, 7), [ints(3, 4)], {"axis": 1}),
    "split, count": ("Split", (6, 5), [], {"axis": 0, "num_outputs": 2}),
    "gather, list": ("Gather", (2, 3, 4), [ints(2, 0)], {"axis": 1}),
    "gather, one": ("Gather", (2, 3, 4), [np.array(1, np.int64)], {"axis": 2}),
    "gather elements": ("GatherElements", (2, 3), [np.array([[1, 0, 1]], np.int64)], {"axis": 0}),
    "resize, up": ("Resize", (1, 2, 3, 4), [floats(), floats(1, 1, 2, 2)], {"mode": "linear"}),
    "resize, sizes": ("Resize", (1, 2, 7, 7), [floats(), floats(), ints(1, 2, 8, 12)], {"mode": "linear"}),
    "resize, down": ("Resize", (1, 2, 14, 14), [floats(), floats(), ints(1, 2, 8, 8)], {"mode": "linear"}),
    "pad": ("Pad", (2, 3), [ints(0, 1, 2, 0), np.float32(0.5)], {}),
    "conv, grouped": (
        "Conv",
        (1, 4, 9, 7),
        [SMALL((6, 2, 3, 3)).astype(np.float32), SMALL(6).astype(np.float32)],
        {"pads": [1, 2, 1, 2], "strides": [2, 1], "group": 2},
    ),
    "max pool": ("MaxPool", (1, 2, 8, 6), [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "average pool": ("AveragePool", (1, 2, 8, 12), [], {"kernel_shape": [4, 4], "strides": [4, 4]}),
    "gemm": ("Gemm", (3, 4), [SMALL((5, 4)).astype(np.float32), SMALL(5).astype(np.float32)], {"transB": 1}),
    "grid sample": ("GridSample", (1, 2, 5, 6), [SMALL((1, 3, 4, 2)).astype(np.float32)], {"mode": "bilinear"}),
    "layer norm": ("LayerNormalization", (2, 3, 8), [SMALL(8).astype(np.float32)] * 2, {"epsilon": 1e-3}),
    "instance norm": ("InstanceNormalization", (2, 3, 4, 4), [SMALL(3).astype(np.float32)] * 2, {"epsilon": 1e-3}),
    "reduce sum": ("ReduceSum", (2, 3, 4), [ints(1, -1)], {"keepdims": 0}),
    "squeeze": ("Squeeze", (1, 3, 1), [ints(0, 2)], {}),
    "unsqueeze": ("Unsqueeze", (3,), [ints(0, 2)], {}),
    "expand": ("Expand", (3, 1), [ints(2, 1, 4)], {}),
    "clip": ("Clip", (9,), [np.float32(-0.3), np.float32(0.4)], {}),
    "softmax": ("Softmax", (2, 3, 4), [], {"axis": 1}),
    "concat": ("Concat", (2, 3), [SMALL((2, 1)).astype(np.float32)], {"axis": 1}),
}


def graph_of(operator, shape, constants, attributes, opset=18):
    names = [f"c{position}" if np.size(value) else "" for position, value in enumerate(constants)]
    count = 2 if operator == "Split" else 1
    node = helper.make_node(operator, ["x", *names], [f"y{i}" for i in range(count)], **attributes)
    weights = [numpy_helper.from_array(np.asarray(v), n) for v, n in zip(constants, names, strict=True) if n]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    made = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(count)]
    graph = helper.make_graph([node], "g", given, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("case", NODES)
def test_operators_equal_onnxruntime(case):
    operator, shape, constants, attributes = NODES[case]
    model = graph_of(operator, shape, constants, attributes)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=ORT)
    for ours, theirs in zip(run(model, x), session.run(None, {"x": x}), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-5


@pytest.mark.parametrize(
    ("operator", "constants", "attributes", "message"),
    [
        ("Einsum", [], {"equation": "ijkl->ij"}, "Einsum .* is not among the operators"),
        ("Resize", [floats(), floats(1, 1, 2, 2)], {"mode": "nearest"}, "Resize .* has"),
        ("Resize", [floats(), floats(1, 1, 0.5, 0.5)], {"mode": "linear", "antialias": 1}, "has antialiasing"),
        ("GridSample", [SMALL((1, 2, 2, 2))], {"mode": "nearest"}, "GridSample .* has mode"),
        ("MaxPool", [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, "MaxPool .* has pads"),
        ("Slice", [ints(3), ints(-9), ints(2), ints(-1)], {}, "Slice .* has steps"),
    ],
)
def test_what_we_do_not_export_is_refused(operator, constants, attributes, message):
    with pytest.raises(BuildError, match=message):
        TorchGraph(graph_of(operator, (1, 2, 4, 4), constants, attributes))
