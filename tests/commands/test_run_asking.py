"""brixel-run --query, --prototypes and --save-prototypes as a user types them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tiny_bundle
import tiny_model
from command_runs import run_json

from brixel_edge.commands.run import main
from brixel_edge.runtimes.asking.prototypes import Prototypes


@pytest.fixture
def graph(tmp_path):
    """Without the constant channel, next to which colours would hardly count."""
    return str(tiny_model.save(tmp_path / "tiny.onnx", bias=0.0))


@pytest.fixture
def folder(tmp_path):
    """A red square that moves to the right over a green field, and is gone in the last of four pictures."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        picture = np.full((64, 96, 3), (40, 160, 40), np.uint8)
        if number < 3:
            picture[16:32, 8 + 24 * number : 24 + 24 * number] = (30, 30, 200)
        cv2.imwrite(str(pictures / f"{number}.png"), picture)
    return str(pictures)


def test_what_is_asked_for_is_found_shown_kept_and_found_again(graph, folder, tmp_path, capsys):
    kept = tmp_path / "kitchen.prototypes"
    code, report, errors = run_json(
        capsys, graph, "--source", folder, "--query", "red=16,24", "--save", tmp_path / "out", "--save-prototypes", kept
    )
    assert code == 0, errors
    found = report["found"]["red"]
    assert (found["frames"], found["found"], found["box"]) == (4, 3, None)
    assert found["score"] < found["threshold"]
    saved = cv2.imread(str(tmp_path / "out" / "000001_1.png"))
    side = saved.shape[1] // 2
    scale = side / 96
    heat = saved[:, side:].astype(int).sum(axis=2)
    assert heat[round(24 * scale), round(40 * scale)] > 2 * heat[round(24 * scale), round(70 * scale)]
    for name in ("fp32", "again"):
        code, report, _ = run_json(capsys, graph, "--source", f"{folder}/[012].png", "--prototypes", kept, "--headless")
        assert code == 0, name
        assert report["found"]["red"]["box"] == [56.0, 16.0, 72.0, 32.0]


def test_the_table_says_what_was_found(graph, folder, capsys):
    assert main([graph, "--source", folder, "--query", "16,24", "--headless", "--quiet"]) == 0
    assert "found        object in 3 of 4 frames, last similarity 0." in capsys.readouterr().out


def test_nothing_asked_is_nothing_found(graph, folder, capsys):
    assert run_json(capsys, graph, "--source", folder, "--headless")[1]["found"] is None


def test_a_file_is_taken_by_other_engines_and_refused_by_other_models(folder, tmp_path, capsys):
    root = tiny_bundle.save(tmp_path / "m.brixel", ("graph.fp32.onnx", "graph.int8.ort.onnx"))
    kept = tmp_path / "red.prototypes"
    arguments = ("--source", folder, "--headless")
    assert run_json(capsys, root, *arguments, "--query", "16,24", "--save-prototypes", kept)[0] == 0
    for more in (("--precision", "int8"), ("--precision", "fp32", "--backend", "ort")):
        code, report, _ = run_json(capsys, root, *arguments, "--prototypes", kept, *more)
        assert (code, report["found"]["object"]["frames"]) == (0, 4)
    other = tiny_model.save(tmp_path / "other.onnx", bias=3.0)
    assert main([str(other), *arguments, "--prototypes", str(kept), "--quiet"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "these prototypes were made with m.brixel (4 channels, " in lines[-1]
    assert "this model is other.onnx" in lines[-1]


def test_a_file_that_is_added_to_is_kept_in_place(graph, folder, tmp_path, capsys):
    kept = tmp_path / "a.prototypes"
    arguments = (graph, "--source", folder, "--headless", "--save-prototypes", kept)
    assert run_json(capsys, *arguments, "--query", "red=16,24")[0] == 0
    assert run_json(capsys, *arguments, "--query", "green=90,60", "--prototypes", kept)[0] == 0
    assert Prototypes.load(kept).names == ("red", "green")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--query", "here"), "--query here is not X,Y or NAME=X,Y"),
        (("--query", "500,500"), "pixel x=500, y=500 has no features; x must be 0 to 95 and y 0 to 63"),
        (("--prototypes", "none.prototypes"), "no prototypes at none.prototypes"),
        (("--prototypes", "broken.prototypes"), "broken.prototypes is not a readable .prototypes file"),
        (("--save-prototypes", "a.npz"), "a.npz does not end in .prototypes; call it a.prototypes"),
        (("--save-prototypes", "none/a.prototypes"), "none/a.prototypes cannot be written"),
        (("--save-prototypes", "broken.prototypes"), "is there; choose another name, or --force replaces it"),
    ],
)
def test_refusals_are_one_line(graph, folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.prototypes").write_bytes(b"PK")
    assert main([graph, "--source", folder, "--headless", "--quiet", *arguments]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1]
