"""brixel-bench: every engine in a process of its own, and what cannot run is told, not hidden."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny_model
from tiny_model import spec as tiny_spec

from brixel_edge.commands.bench import main
from brixel_edge.errors import BuildError
from brixel_edge.machine.openvino_hint import PRECISION_KEY
from brixel_edge.runtimes.bench.bench import Schedule, measure, require_measured, row_from_times
from brixel_edge.runtimes.engines import Engine, engines_of_folder

QUICK = ["--warmup", "1", "--rounds", "2", "--calls", "2", "--threads", "1"]


@pytest.fixture
def model(mini_fp16_bundle, tmp_path):
    return shutil.copytree(mini_fp16_bundle, tmp_path / "m.brixel")


@pytest.mark.parametrize("flags", [[], ["--in-turn"]])
def test_all_engines_are_measured(model, capsys, monkeypatch, flags):
    monkeypatch.setattr("brixel_edge.runtimes.engines.has_bf16", lambda: False)
    (model / "graph.fp16.onnx").unlink()
    assert main([str(model), *QUICK, *flags, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in record["rows"]}
    assert "graph.fp32.onnx, ort" in rows
    for row in rows.values():
        assert row["error"] is None
        assert row["calls"] == 4
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["peak_bytes"] > 10 << 20
    assert record["protocol"] == {"warmup": 1, "rounds": 2, "calls": 2, "is_side_by_side": not flags}


def test_people_get_a_table(capsys):
    assert main(QUICK) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("built-in default, 512x704, batch 1\n")
    assert "default.onnx, ort  " in shown
    assert "1 calls to warm up, then 2 turns of 2 calls, side by side" in shown


def test_an_engine_that_does_not_run_is_a_row_with_its_reason(model):
    size = (64, 96)
    rows = measure(
        [
            Engine(path=model / "graph.fp32.onnx", backend="ort", size=size, threads=1),
            Engine(path=model / "absent.onnx", backend="ort", size=size, threads=1),
            Engine(path=model / "graph.fp32.onnx", backend="ort", size=(32, 32), threads=1),
        ],
        Schedule(warmup=1, rounds=1, calls=1),
    )
    assert [row.error is None for row in rows] == [True, False, False]
    assert "absent.onnx" in rows[1].error
    assert "ended" in rows[2].error
    with pytest.raises(BuildError, match=r"no engine runs here: absent.onnx, ort: .*; graph.fp32.onnx, ort: "):
        require_measured(rows[1:])


def test_who_is_measured_with_what(tmp_path, monkeypatch):
    for name in ("fp32", "fp16", "bf16", "int8", "int8.ort", "int8.trt"):
        (tmp_path / f"graph.{name}.onnx").touch()
    (tmp_path / "engine.sm87.10.3.0.fp16.plan").touch()
    (tmp_path / "plan.json").touch()
    monkeypatch.setattr("brixel_edge.runtimes.engines.has_bf16", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace() if name == "openvino" else None)
    assert [entry.name for entry in engines_of_folder(tmp_path, tiny_spec())] == [
        "graph.bf16.onnx, openvino",
        "graph.fp16.onnx, ort",
        "graph.fp16.onnx, openvino",
        "graph.fp32.onnx, ort",
        "graph.fp32.onnx, openvino",
        "graph.fp32.onnx, openvino bf16",
        "graph.int8.onnx, openvino",
        "graph.int8.ort.onnx, ort",
        "engine.sm87.10.3.0.fp16.plan, trt",
    ]


def test_bf16_is_no_rival_where_the_int8_graph_says_that_it_is_too_coarse(tmp_path, monkeypatch):
    tiny_model.save(tmp_path / "graph.fp32.onnx")
    graph = onnx.load(str(tmp_path / "graph.fp32.onnx"))
    graph.metadata_props.add(key=PRECISION_KEY, value="f32")
    onnx.save(graph, str(tmp_path / "graph.int8.onnx"))
    monkeypatch.setattr("brixel_edge.runtimes.engines.has_bf16", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace() if name == "openvino" else None)
    assert [entry.name for entry in engines_of_folder(tmp_path, tiny_spec())] == [
        "graph.fp32.onnx, ort",
        "graph.fp32.onnx, openvino",
        "graph.int8.onnx, openvino",
    ]


def test_percentiles_and_throughput_are_those_of_the_calls():
    times_ms = [float(value) for value in range(1, 101)]
    row = row_from_times("x", times_ms, load_s=0.5, peak_bytes=7, device_bytes=None)
    assert (row.p50_ms, row.p99_ms) == (50.5, pytest.approx(99.01))
    assert row.per_s == pytest.approx(1000 / np.mean(np.arange(1, 101)))
    assert (row.load_s, row.peak_bytes, row.calls) == (0.5, 7, 100)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rounds", "0"], "--rounds 0 is not at least 1"),
        (["--threads", "0"], "--threads 0 is not at least 1"),
        (["absent.brixel"], "no model at absent.brixel"),
    ],
)
def test_refusals_are_one_line(capsys, flags, message):
    assert main(flags) == 2
    assert message in capsys.readouterr().err
