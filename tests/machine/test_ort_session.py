"""Options that a session is opened with arrive in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from brixel_edge.machine.ort_session import CPU_PROVIDERS, open_session


@pytest.fixture(scope="module")
def graph():
    """y = |x + x|, with an Identity that can go."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["sum"], name="add"),
        helper.make_node("Identity", ["sum"], ["same"], name="needless"),
        helper.make_node("Abs", ["same"], ["y"], name="abs"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    body = helper.make_graph(nodes, "g", values[:1], values[1:])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_file_and_its_bytes_are_the_same(graph, tmp_path):
    onnx.save(graph, tmp_path / "g.onnx")
    x = np.float32([-1, 2, -3])
    for model in (tmp_path / "g.onnx", graph.SerializeToString()):
        session = open_session(model)
        assert session.get_providers() == list(CPU_PROVIDERS)
        assert (session.run(None, {"x": x})[0] == [2, 4, 6]).all()


@pytest.mark.parametrize(("threads", "arrived"), [(1, 1), (3, 3), (0, 0), (None, 0)])
def test_threads_arrive(graph, threads, arrived):
    options = open_session(graph.SerializeToString(), threads=threads).get_session_options()
    assert options.intra_op_num_threads == arrived


@pytest.mark.parametrize("has", [True, False])
def test_memory_options_arrive(graph, has):
    session = open_session(graph.SerializeToString(), has_arena=has, has_memory_pattern=has)
    options = session.get_session_options()
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (has, has)


def test_order_arrives(graph):
    model = graph.SerializeToString()
    sessions = [open_session(model, in_file_order=flag) for flag in (False, True)]
    orders = [session.get_session_options().execution_order for session in sessions]
    assert orders == [onnxruntime.ExecutionOrder.DEFAULT, onnxruntime.ExecutionOrder.PRIORITY_BASED]


@pytest.mark.parametrize(("is_optimized", "nodes"), [(True, 2), (False, 3)])
def test_optimisation_is_done_or_left(graph, tmp_path, is_optimized, nodes):
    out = tmp_path / "optimized.onnx"
    open_session(graph.SerializeToString(), is_optimized=is_optimized, optimized_out=out)
    assert len(onnx.load(out).graph.node) == nodes


def test_profile_is_written_where_asked(graph, tmp_path):
    session = open_session(graph.SerializeToString(), profile_prefix=tmp_path / "profile")
    session.run(None, {"x": np.zeros(3, np.float32)})
    written = Path(session.end_profiling())
    assert written.parent == tmp_path
    assert any(event["name"] == "add_kernel_time" for event in json.loads(written.read_text(encoding="utf-8")))


def test_what_is_no_model_is_refused_and_silence_is_kept(capfd):
    with pytest.raises(Exception, match=r"[Pp]rotobuf"):
        open_session(b"no model", is_silent=True)
    assert capfd.readouterr().err == ""


def test_threads_reach_onnx_runtime_from_every_door(tmp_path, monkeypatch, capsys):
    """`open_model(threads=)` and `brixel-run --threads`: the session has that many, and no other number by chance."""
    import onnxruntime
    import tiny_model

    from brixel_edge.commands.run import main
    from brixel_edge.runtimes.model import open_model

    given = []
    session = onnxruntime.InferenceSession

    def record(model, sess_options=None, **options):
        given.append(sess_options.intra_op_num_threads)
        return session(model, sess_options, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    graph = tiny_model.save(tmp_path / "tiny.onnx")
    open_model(graph, backend="ort", threads=3).close()
    assert set(given) == {3}
    given.clear()
    arguments = [str(graph), "--source", "test:pattern", "--frames", "1", "--headless", "--quiet"]
    assert main([*arguments, "--threads", "5", "--backend", "ort"]) == 0
    assert set(given) == {5}
    capsys.readouterr()
