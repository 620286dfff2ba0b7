"""brixel-inspect: what it tells of directories, graphs and engines."""

import json
import shutil

import pytest

from brixel_edge.commands.inspect import main
from brixel_edge.model.bundle import DEFAULT_MODEL


@pytest.fixture
def model(mini_fp16_bundle, tmp_path):
    return shutil.copytree(mini_fp16_bundle, tmp_path / "m.brixel")


def test_a_directory_shows_files_proof_precisions_and_islands(model, capsys):
    assert main([str(model)]) == 0
    shown = capsys.readouterr().out
    for part in (
        "image uint8 (1, 64, 96, 3) BGR -> features (1, 128, 16, 24)",
        "licence of the weights: Apache-2.0",
        "untrained weights",
        "graph.fp16.onnx",
        "intact",
        "onnxruntime, every half tensor rounded",
        "fp32 islands, level measured",
        "bilinear sampling (largest magnitude",
        "made by python",
    ):
        assert part in shown, part
    assert "tried for" not in shown  # the first plan passed


def test_json_is_the_whole_receipt_and_the_state_of_the_files(model, capsys):
    with (model / "graph.fp32.onnx").open("ab") as stream:
        stream.write(b"x")
    (model / "proof.npz").unlink()
    assert main([str(model), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["receipt"] == json.loads((model / "model.json").read_text())
    assert record["intact"] == {"graph.fp16.onnx": "intact", "graph.fp32.onnx": "changed", "proof.npz": "missing"}


def test_attempts_are_told_where_there_were_several(model, capsys):
    receipt = json.loads((model / "model.json").read_text())
    failed = {**receipt["attempts"][0], "sampler": "gather", "passed": False, "error": "differs by much"}
    receipt["attempts"].insert(0, failed)
    (model / "model.json").write_text(json.dumps(receipt))
    assert main([str(model / "model.json")]) == 0
    shown = capsys.readouterr().out
    assert "tried for --engine onnx-fp16" in shown
    assert "fp16, gather: failed: differs by much" in shown
    assert "fp16, gridsample: passed" in shown


def test_a_bare_graph_is_read_without_onnx(model, capsys):
    assert main([str(model / "graph.fp16.onnx"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["precision"] == ["fp16"]
    assert record["precisions"]["GridSample"] == {"fp32": 6}
    assert record["precisions"]["LayerNormalization"] == {"fp16": 33}
    assert record["inputs"] == [{"name": "image", "dtype": "uint8", "shape": [1, 64, 96, 3]}]
    assert record["outputs"] == [{"name": "features", "dtype": "fp32", "shape": [1, 128, 16, 24]}]
    assert len(record["fp32_islands"]) > 40


def test_without_arguments_it_is_the_built_in_model(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert str(DEFAULT_MODEL) in shown
    assert "LayerNormalization" in shown and "GridSample" not in shown


def test_an_engine_is_told_by_its_report_or_by_its_name(tmp_path, capsys):
    plan = tmp_path / "engine.sm87.10.3.0.fp16.plan"
    plan.write_bytes(b"plan")
    assert main([str(plan)]) == 0
    assert "rebuild: brixel-export ... --engine trt-fp16" in capsys.readouterr().out
    (tmp_path / "mine.plan").write_bytes(b"plan")
    assert main([str(tmp_path / "mine.plan")]) == 2
    assert "not an engine of brixel-export" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["absent", "text.onnx"])
def test_what_is_none_of_ours_is_one_line(tmp_path, capsys, name):
    (tmp_path / "text.onnx").write_text("hello")
    assert main([str(tmp_path / name)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
