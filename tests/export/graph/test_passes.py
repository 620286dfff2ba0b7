"""Graph rewrites: what they change, what they leave alone, and that the values stay."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.export.graph.passes import fusable_gelu


def gelu_graph(half: float = 0.5, share: bool = False):
    """x * (0.5 * (1 + erf(x / sqrt 2))), as torch writes it."""
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["shifted"]),
        helper.make_node("Mul", ["half", "shifted"], ["halved"]),
        helper.make_node("Mul", ["x", "halved"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]
    if share:
        nodes.append(helper.make_node("Neg", ["halved"], ["z"]))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [4]))
    constants = {"root": 2**0.5, "one": 1.0, "half": half}
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])]
    return helper.make_model(
        helper.make_graph(nodes, "g", given, outputs, weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )


def test_gelu_is_reordered_and_keeps_its_values(tmp_path):
    model, x = gelu_graph(), np.array([-3, -0.1, 0.5, 4], np.float32)
    before = run(model, x)[0]
    assert fusable_gelu(model) == 1
    assert np.abs(run(model, x)[0] - before).max() < 1e-6
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert b"Gelu" in (tmp_path / "fused.onnx").read_bytes()


def test_what_is_no_gelu_is_left_alone():
    for model in (gelu_graph(half=0.4), gelu_graph(share=True)):
        before = model.SerializeToString()
        assert fusable_gelu(model) == 0
        assert model.SerializeToString() == before
