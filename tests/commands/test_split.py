"""brixel-export --split through the command: halves of every precision, in the receipt, run by the other commands."""

from __future__ import annotations

import json

import cv2
import jsonschema
import numpy as np
import pytest

import brixel_edge
from brixel_edge.commands.export import main as export
from brixel_edge.commands.inspect import main as inspect
from brixel_edge.commands.run import main as run
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.model.bundle import open_bundle
from brixel_edge.model.receipt import SCHEMA_PATH
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.student import adapter_metadata, load_student
from brixel_edge.network.weights import save_adapter

pytestmark = pytest.mark.slow  # an export in three precisions, with calibration

GRAPHS = {"fp32": "fp32", "bf16": "bf16", "int8.ort": "int8", "int8": "int8"}


@pytest.fixture(scope="module")
def world(tmp_path_factory, in_tiny_world, photographs):
    """A directory with halves in fp32, bf16 and calibrated INT8."""
    root, rng = tmp_path_factory.mktemp("split"), np.random.default_rng(0)
    (root / "calib").mkdir()
    for number in range(24):
        picture = photographs[number % len(photographs)]
        y, x = (int(rng.integers(0, side - 128)) for side in picture.shape[:2])
        cv2.imwrite(str(root / "calib" / f"{number}.png"), picture[y : y + 128, x : x + 128])
    with in_tiny_world():
        student = load_student(load_backbone("tiny"), "random", "conv", conv=ConvSettings(width=16))
        save_adapter(root / "adapter.safetensors", student.refiner.state_dict(), adapter_metadata(student))
        arguments = [
            "--backbone", "tiny", "--backbone-weights", "random", "--adapter", "conv",
            "--adapter-weights", str(root / "adapter.safetensors"), "--size", "64x96", "--split",
            "--engine", "onnx,onnx-bf16,onnx-int8", "--calib", str(root / "calib"),
            "--min-speedup", "0", "--no-bench", "--out", str(root / "film.brixel"),
        ]  # fmt: skip
        assert export(arguments) == 0
    return root


@pytest.fixture(scope="module")
def frames(photographs):
    """A film: a window that moves over a photograph."""
    return [np.ascontiguousarray(photographs[1][40:168, 8 * number : 8 * number + 192]) for number in range(6)]


def cosine(one, other):
    return (one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other))


def test_the_receipt_says_how_halves_of_every_precision_compare_with_their_graph(world, capsys):
    bundle = open_bundle(world / "film.brixel")
    receipt = bundle.receipt
    jsonschema.validate(receipt.to_json(), json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
    assert set(receipt.halves) == {f"adapter.{name}.onnx" for name in GRAPHS}
    for name, precision in GRAPHS.items():
        halves, parity = receipt.halves[f"adapter.{name}.onnx"], receipt.parity[f"adapter.{name}.onnx"]
        assert (halves.graph, halves.backbone) == (f"graph.{name}.onnx", f"backbone.{name}.onnx")
        assert halves.error <= (1e-6 if precision == "fp32" else 1e-2)
        assert (parity.gate, parity.images) == (precision, halves.images)
    assert inspect([str(bundle.root)]) == 0
    assert "backbone.int8.ort.onnx and adapter.int8.ort.onnx differ from graph.int8.ort.onnx" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("backend", "precision"), [("ort", "fp32"), ("openvino", "bf16"), ("ort", "int8"), ("openvino", "int8")]
)
def test_halves_are_the_graph_for_one_and_follow_the_film_for_two(world, frames, backend, precision):
    root = world / "film.brixel"
    options = {"backend": backend, "precision": precision, "threads": 1}
    with brixel_edge.open_model(root, **options) as model:
        whole = [model(frame).values for frame in frames]
    bound = {"fp32": 1e-6, "bf16": 2e-2, "int8": 2e-2}[precision]
    for every in (1, 2):
        maps = [fm.values for fm in brixel_edge.stream(root, iter(frames), backbone_every=every, **options)]
        errors = [np.linalg.norm(one - two) / np.linalg.norm(two) for one, two in zip(maps, whole, strict=True)]
        assert max(errors[::every]) <= bound  # where the backbone runs
        if every == 2:
            assert min(errors[1::2]) > bound and min(map(cosine, maps, whole)) > 0.5


def test_a_run_takes_the_halves_and_says_so(world, frames, tmp_path, capsys):
    (tmp_path / "film").mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "film" / f"{number}.png"), frame)
    arguments = ["--source", str(tmp_path / "film"), "--headless", "--backbone-every", "2", "--threads", "1", "--json"]
    assert run([str(world / "film.brixel"), "--backend", "ort", "--precision", "int8", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["processed"], report["engine"], report["precision"]) == (6, "adapter.int8.ort.onnx", "int8")


def test_a_film_needs_halves_and_an_adapter_that_reads_it(world, in_tiny_world, tmp_path, capsys):
    with in_tiny_world():
        plain = ["--backbone", "tiny", "--backbone-weights", "random", "--size", "64x96", "--no-bench"]
        assert export([*plain, "--adapter", "none", "--split", "--out", str(tmp_path / "no.brixel")]) == 2
        assert "--split cuts a graph at its adapter" in capsys.readouterr().err
        assert export([*plain, "--adapter", "none", "--out", str(tmp_path / "none.brixel")]) == 0
    capsys.readouterr()
    for model, message in ((tmp_path / "none.brixel", "has no adapter that reads the frame"), (None, "is one graph")):
        arguments = [*([] if model is None else [str(model)]), "--source", "test:pattern", "--headless", "--quiet"]
        assert run([*arguments, "--backbone-every", "2", "--frames", "2"]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert message in line
