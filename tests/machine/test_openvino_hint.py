"""In what OpenVINO computes a graph, and that whoever runs one there asks the same place."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.errors import SpecError
from brixel_edge.machine import openvino_hint
from brixel_edge.machine.openvino_hint import PRECISION_KEY, precision_hint

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
RUNNERS = ["runtime", "gate", "verdict", "INT8 gate"]


@pytest.fixture
def graphs(tmp_path):
    """A float graph and one with Q/DQ, whose names do not say which is which."""
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    cast = helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)
    step, zero = numpy_helper.from_array(np.float32(0.5), "s"), numpy_helper.from_array(np.int8(0), "z")
    pair = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"])]  # fmt: skip
    paths = {}
    for name, nodes, read, constants in (
        ("float", [cast], "x", [weight]),
        ("int8", [cast, *pair], "dq", [weight, step, zero]),
    ):
        product = helper.make_node("MatMul", [read, "w"], ["features"])
        body = helper.make_graph(
            [*nodes, product], "g",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 2, 2, 3])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 2, 2, 3])], constants,
        )  # fmt: skip
        paths[name] = tmp_path / f"{len(paths)}.onnx"
        onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(paths[name]))
    return paths


@pytest.fixture(params=[True, False], ids=["bf16", "no bf16"])
def capable(request, monkeypatch):
    """Whether the CPU has bfloat16."""
    monkeypatch.setattr(openvino_hint, "has_bf16", lambda: request.param)
    return request.param


def test_the_remainder_of_int8_is_bf16_where_the_cpu_has_it_and_float_graphs_are_f32(graphs, capable):
    models = {name: openvino.Core().read_model(str(path)) for name, path in graphs.items()}
    assert precision_hint(models["float"], "auto") == "f32"
    assert precision_hint(models["int8"], "auto") == ("bf16" if capable else "f32")


def test_a_graph_says_itself_that_bf16_is_too_coarse_for_it(graphs, capable):
    graph = onnx.load(str(graphs["int8"]))
    graph.metadata_props.add(key=PRECISION_KEY, value="f32")
    onnx.save(graph, str(graphs["int8"]))
    model = openvino.Core().read_model(str(graphs["int8"]))
    assert precision_hint(model, "auto") == "f32"
    if capable:
        assert precision_hint(model, "bf16") == "bf16"


def test_what_is_asked_for_is_taken_or_refused(graphs, capable):
    for path in graphs.values():
        model = openvino.Core().read_model(str(path))
        assert precision_hint(model, "f32") == "f32"
        if capable:
            assert precision_hint(model, "bf16") == "bf16"
        else:
            with pytest.raises(SpecError, match=r"this CPU has no bfloat16 instructions .*; use f32"):
                precision_hint(model, "bf16")


@pytest.mark.parametrize("runner", RUNNERS)
def test_run_bench_gates_and_verdict_compile_with_that_hint(graphs, capable, runner, monkeypatch):
    from brixel_edge.calib.engines import OpenVinoEngine
    from brixel_edge.export.judges import OpenVinoJudge
    from brixel_edge.runtimes.engines import Engine, open_runtime
    from brixel_edge.runtimes.runtime import RuntimeSettings

    hints = []

    def compiled(self, model, device, settings):
        hints.append(settings["INFERENCE_PRECISION_HINT"])
        return real(self, model, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    real = openvino.Core.compile_model
    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    monkeypatch.setattr(openvino, "compile_model", None)
    image = np.zeros((1, 2, 2, 3), np.uint8)
    for path in (graphs["float"], graphs["int8"]):
        if runner == "runtime":
            open_runtime(path, "openvino").close()
        elif runner == "verdict":  # what the process that is timed opens
            engine = Engine(path=path, backend="openvino", size=(2, 2))
            open_runtime(path, "openvino", RuntimeSettings(openvino_precision=engine.openvino_precision)).close()
        elif runner == "gate":
            OpenVinoJudge().outputs(path, [image])
        else:
            OpenVinoEngine(path).run(image)
    assert hints == ["f32", "bf16" if capable else "f32"]
