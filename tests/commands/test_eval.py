"""brixel-eval as it is typed: the help lists what there is, results come as text and as JSON, errors in one line."""

import json

import cv2
import numpy as np
import pytest
import tiny_model

from brixel_edge.commands import eval as command
from brixel_edge.commands.eval import main
from brixel_edge.evaluation.settings import Features
from brixel_edge.evaluation.tasks import TASKS


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
    assert row["features"] == "engine:default" and row["grid"] == [8, 12] and row["gflop"] is None
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
