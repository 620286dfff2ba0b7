"""brixel-export --engine onnx-int8 --calib: the cache, the loop around PyTorch's gate, the same receipt every time."""

import json

import cv2
import jsonschema
import numpy as np
import pytest

from brixel_edge.commands import export_int8
from brixel_edge.commands.export import main
from brixel_edge.export.ladder import GateMissedError
from brixel_edge.model.receipt import SCHEMA_PATH

MINI = ["--backbone", "vit_mini_dinov3", "--backbone-weights", "random", "--adapter", "none", "--size", "64x64"]
INT8 = ["--engine", "onnx-int8", "--min-speedup", "0", "--no-bench"]


@pytest.fixture(scope="module")
def pictures(photographs, tmp_path_factory):
    """24 views of photographs, as files."""
    folder, rng = tmp_path_factory.mktemp("calib"), np.random.default_rng(0)
    for number in range(24):
        picture = photographs[number % len(photographs)]
        y, x = (int(rng.integers(0, side - 128)) for side in picture.shape[:2])
        cv2.imwrite(str(folder / f"{number}.png"), picture[y : y + 128, x : x + 128])
    return folder


@pytest.fixture(scope="module")
def twice(pictures, tmp_path_factory):
    """(receipts of two exports with one cache, how often PyTorch's gate was asked in each, the cache)."""
    folder, asked, receipts = tmp_path_factory.mktemp("twice"), [], []
    real = export_int8.proven_int8

    def proven(*arguments):
        asked[-1] += 1
        if asked[-1] == 1:
            raise GateMissedError("worst 1 % 0.97897 for 0.98", {})
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_int8, "proven_int8", proven)
        for name in ("a", "b"):
            asked.append(0)
            flags = ["--calib", str(pictures), "--calib-cache", str(folder / "cache"), "--out", str(folder / name)]
            assert main([*MINI, *INT8, *flags]) == 0
            receipts.append(json.loads((folder / name / "model.json").read_text()))
    return receipts, asked, folder / "cache"


def test_two_exports_differ_only_in_what_was_measured(twice):
    (first, second), _, _ = twice
    measured = first.pop("measured"), second.pop("measured")
    assert first == second
    assert first["files"].keys() >= {"curve.json", "plan.json", "calib.json", "graph.int8.ort.onnx"}
    assert all(entry["int8"]["curve_ms"] for entry in measured)
    jsonschema.validate({**first, "measured": measured[0]}, json.loads(SCHEMA_PATH.read_text()))


def test_a_missed_gate_of_pytorch_sends_nodes_back_to_float(twice):
    (receipt, _), asked, _ = twice
    every = [entry["target"] for entry in receipt["int8"]["lowered"]]
    assert asked[0] == 1 + len(every)  # the first was refused, every target of the next was asked
    assert len({entry["file"] for entry in receipt["int8"]["lowered"]} & receipt["parity"].keys()) == len(every)
    assert receipt["int8"]["rounds"] >= 2
    assert "sensitivity" in receipt["int8"]["float_nodes"].values()


def test_the_receipt_shows_lower_bounds_on_frames_of_no_other_use(twice):
    (receipt, _), _, _ = twice
    lower = receipt["int8"]["lowered"][0]["fidelity"]["features"]["lower"]
    assert lower["mean"] >= 0.995 and lower["p01"] >= 0.98 and lower["confidence"] == 0.95
    assert lower["photographs"] >= 4
    assert len(set(receipt["int8"]["frames_sha256"].values())) == 3
    assert receipt["parity"]["graph.int8.ort.onnx"]["norm_error"] <= 0.75


def test_one_calibration_is_kept(twice):
    assert [path.name[:6] for path in twice[2].iterdir()] == ["calib."]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--calib-cache", "c"], "--calib-cache keeps calibrations of INT8; give --engine onnx-int8 and --calib SRC"),
        (["--engine", "onnx-fp16", "--calib", "x", "--calib-cache", "c"], "--calib-cache keeps calibrations of INT8"),
    ],
)
def test_a_cache_for_nothing_is_refused(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main([*MINI, *flags]) == 2
    assert message in capsys.readouterr().err


def test_calibration_and_proof_that_share_pictures_are_refused(pictures, tmp_path, capsys):
    shared = ["--calib", str(pictures), "--parity-images", str(pictures), "--out", str(tmp_path / "m")]
    assert main([*MINI, *INT8, *shared]) == 2
    assert "24 photographs of the proof are in --calib" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
