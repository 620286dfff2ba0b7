"""brixel-eval as it is typed: the help lists what there is, results come as text and as JSON, errors in one line."""

import dataclasses
import json

import cv2
import jsonschema
import numpy as np
import pytest
import tiny_model

from brixel_edge.commands import eval as command
from brixel_edge.commands.eval import main
from brixel_edge.errors import BundleError
from brixel_edge.evaluation.settings import Features
from brixel_edge.evaluation.tasks import TASKS
from brixel_edge.model.bundle import add_evaluations
from brixel_edge.model.receipt import SCHEMA_PATH


@pytest.fixture
def camvid(tmp_path):
    """Red and blue halves."""
    root = tmp_path / "camvid"
    for split in ("train", "test"):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for number in range(2):
            label = np.zeros((40, 60), np.uint8)
            label[:, 20 + 10 * number :] = 8
            frame = np.where(label[..., None] == 8, (200, 30, 30), (30, 30, 200)).astype(np.uint8)
            cv2.imwrite(str(root / split / "images" / f"{number}.png"), frame)
            cv2.imwrite(str(root / split / "labels" / f"{number}.png"), label)
    return root


def test_the_command_lists_every_task_and_kind_of_feature():
    from typing import get_args

    assert tuple(TASKS) == command.TASK_NAMES
    assert get_args(Features) == command.FEATURE_NAMES
    assert all(name.split("-")[0] in command.EPILOG for name in (*TASKS, *command.FEATURE_NAMES))


def test_an_exported_graph_is_scored_as_it_is(camvid, tmp_path, capsys):
    graph = tiny_model.save(tmp_path / "tiny.onnx")
    arguments = ["camvid", "--data", str(camvid), "--model", str(graph), "--seeds", "1", "--epochs", "60",
                 "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (row,) = record["rows"]
    assert row["features"] == "engine:default" and row["grid"] == [8, 12]
    assert row["gflop"] == pytest.approx(2 * (8 * 12) * 4 * (3 * 4 * 4) / 1e9)  # one convolution of 4 x 4 pixels
    assert row["scores"]["miou"]["mean"] > 0.9 and row["per_class"]["car"] > 0.9
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"eval.json", "eval.md", "eval.png", "probes"}
    assert main(arguments) == 0
    assert "| engine:default | 32x48 | 8x12 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "tiny_backbone"], "vit_small_patch16_dinov3"),
        (["--model", "vit_tiny_patch16_224", "--size", "wide"], "--size 'wide'"),
        (["--model", "vit_tiny_patch16_224", "--tap-layers", "a"], "--tap-layers"),
        (["--model", "missing.brixel"], "missing.brixel"),
        (["--model", "vit_tiny_patch16_224", "--cache-budget", "much"], "'much'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(camvid, capsys, arguments, message):
    assert main(["camvid", "--data", str(camvid), *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_a_folder_that_is_not_the_data_set_is_named(tmp_path, capsys):
    assert main(["voc", "--data", str(tmp_path), "--model", "vit_tiny_patch16_224"]) == 2
    assert "JPEGImages" in capsys.readouterr().err


def test_scores_become_lines_of_the_receipt(camvid, export_mini_fp16, capsys):
    from brixel_edge.commands.inspect import main as inspect
    from brixel_edge.model.bundle import open_bundle

    root = export_mini_fp16("evaluated")
    files = open_bundle(root).receipt.files
    arguments = ["camvid", "--data", str(camvid), "--model", str(root), "--engine", "onnx-fp32", "--threads", "1",
                 "--epochs", "2", "--device", "cpu", "--write-receipt", "--json"]  # fmt: skip
    assert main([*arguments, "--seeds", "1"]) == 0
    assert main([*arguments, "--seeds", "2"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    receipt = open_bundle(root).receipt
    (line,) = receipt.evaluations
    assert (line.file, line.backend, line.task) == ("graph.fp32.onnx", "ort", "camvid")
    assert (line.score, line.seeds, line.pictures) == ("miou", 2, 2)
    assert line.mean == record["rows"][0]["scores"]["miou"]["mean"]
    assert receipt.files == files
    jsonschema.validate(json.loads((root / "model.json").read_text()), json.loads(SCHEMA_PATH.read_text()))
    assert inspect([str(root)]) == 0
    assert "miou of camvid, linear probe, 2 pictures" in capsys.readouterr().out
    with pytest.raises(BundleError, match=r"has no other\.onnx"):
        add_evaluations(root, [dataclasses.replace(line, file="other.onnx")])
