"""The whole road of a head: a probe trained on labels, fused into graphs of every precision, run, verified, shown."""

import dataclasses
import json
import shutil

import cv2
import jsonschema
import numpy as np
import pytest
from tiny_heads import head_of

import brixel_edge
from brixel_edge.commands import export_steps
from brixel_edge.commands.eval import main as evaluate
from brixel_edge.commands.export import main as export
from brixel_edge.commands.inspect import main as inspect
from brixel_edge.commands.run import main as run
from brixel_edge.commands.verify import main as verify
from brixel_edge.errors import ParityError
from brixel_edge.evaluation.layouts.segmentation import CAMVID_CLASSES, CAMVID_COLOURS
from brixel_edge.export.graph.reference import reference_features
from brixel_edge.image.resize import resize_image
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.model.bundle import open_bundle, write_receipt
from brixel_edge.model.receipt import SCHEMA_PATH
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.head_file import load_head, save_head
from brixel_edge.network.student import adapter_metadata, load_student
from brixel_edge.network.weights import save_adapter
from brixel_edge.proof.proof import load_proof, save_proof

VIEW = (32, 48)


@pytest.fixture(scope="module")
def world(tmp_path_factory, in_tiny_world):
    """CamVid's folders with red and blue halves, and the file of a small adapter."""
    root = tmp_path_factory.mktemp("head")
    for split in ("train", "test"):
        for part in ("images", "labels"):
            (root / "camvid" / split / part).mkdir(parents=True)
        for number in range(2):
            label = np.zeros((40, 60), np.uint8)
            label[:, 20 + 10 * number :] = 8
            frame = np.where(label[..., None] == 8, (200, 30, 30), (30, 30, 200)).astype(np.uint8)
            cv2.imwrite(str(root / "camvid" / split / "images" / f"{number}.png"), frame)
            cv2.imwrite(str(root / "camvid" / split / "labels" / f"{number}.png"), label)
    with in_tiny_world():
        student = load_student(load_backbone("tiny"), "random", "conv", conv=ConvSettings(width=16))
        save_adapter(root / "adapter.safetensors", student.refiner.state_dict(), adapter_metadata(student))
        yield root


def eval_arguments(world, *more):
    return [
        "camvid", "--data", str(world / "camvid"), "--model", "tiny", "--adapter", str(world / "adapter.safetensors"),
        "--size", f"{VIEW[0]}x{VIEW[1]}", "--seeds", "2", "--epochs", "40", "--threads", "1", "--device", "cpu", *more,
    ]  # fmt: skip


def export_arguments(world, out, *more):
    return [
        "--backbone", "tiny", "--backbone-weights", "random", "--adapter", "conv", "--adapter-weights",
        str(world / "adapter.safetensors"), "--size", f"{VIEW[0]}x{VIEW[1]}", "--no-bench", "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def probe(world):
    """A probe on the adapter's features."""
    path = world / "probe.safetensors"
    assert evaluate(eval_arguments(world, "--features", "brixel", "--save-head", str(path))) == 0
    return path


@pytest.fixture(scope="module")
def bundle(world, probe):
    """Graphs of all precisions with the probe in them and no features, quantised dynamically."""
    out = world / "street.brixel"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_steps, "int8_speed", lambda *arguments, **options: None)
        engines = "onnx-fp16,onnx-bf16,onnx-int8"
        assert export(export_arguments(world, out, "--head", str(probe), "--engine", engines)) == 0
    return out


@pytest.fixture(scope="module")
def student(world):
    return load_student(load_backbone("tiny"), world / "adapter.safetensors", "conv")


def frame_of(world):
    return cv2.imread(str(world / "camvid" / "test" / "images" / "1.png"))


def test_a_saved_probe_names_classes_colours_and_features(probe, student):
    head = load_head(probe)
    assert head.spec.kind == "segmentation" and not head.spec.keeps_features
    assert head.spec.classes == CAMVID_CLASSES and head.spec.colours == CAMVID_COLOURS
    assert head.weight.shape == (11, 32) and str(head.origin).startswith("tiny, adapter conv, layers 0,1, 32 channels")


def test_masks_of_the_graph_are_those_of_the_probe_outside(world, probe, bundle, student):
    frame = frame_of(world)
    spec = open_bundle(bundle).spec
    (features,) = reference_features(student, spec, [resize_image(frame, *VIEW)[None]])
    outside = load_head(probe)(features)[0]
    with brixel_edge.open_model(bundle, backend="ort", precision="fp32", threads=1) as model:
        found = model(frame)
    assert model.head == spec.head and found.values.shape == (8, 12, 0)
    assert np.abs(found.logits.transpose(2, 0, 1) - outside).max() < 1e-4 * np.abs(outside).max()
    assert np.array_equal(found.labels, outside.argmax(0))
    assert (found.class_at(x=2, y=20), found.class_at(x=57, y=20)) == ("sky", "car")


def test_every_precision_passes_a_gate_of_its_own_and_the_receipt_says_so(bundle, probe):
    receipt = open_bundle(bundle).receipt
    jsonschema.validate(receipt.to_json(), json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
    assert receipt.weights.head.file == probe.name
    gates = {name: parity.gate for name, parity in receipt.parity.items()}
    assert gates == {
        "graph.fp32.onnx": "fp32", "graph.fp16.onnx": "fp16", "graph.bf16.onnx": "bf16", "graph.int8.ort.onnx": "int8",
    }  # fmt: skip
    for parity in receipt.parity.values():
        assert parity.cosine_mean is None and parity.answers.agreement > 0.95 and "classes agree" in parity.line
    assert load_proof(bundle / "proof.npz").features is None


def test_inspect_and_verify_speak_of_the_head(bundle, tmp_path, capsys):
    assert inspect([str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "-> head (1, 11, 8, 12): 11 classes" in shown and "classes: sky, building" in shown
    assert "classes agree" in shown
    assert verify([str(bundle), "--engine", "onnx", "--map", str(tmp_path / "map.png"), "--threads", "1"]) == 0
    assert "passed, classes agree 100.000%" in capsys.readouterr().out
    assert (tmp_path / "map.png").is_file()


def test_a_head_that_answers_otherwise_here_is_not_taken(bundle, tmp_path, capsys):
    root = tmp_path / "m.brixel"
    shutil.copytree(bundle, root, ignore=shutil.ignore_patterns("*.passed.json"))
    proof = load_proof(root / "proof.npz")
    wrong = dataclasses.replace(proof, answers=-proof.answers)
    save_proof(wrong, root / "proof.npz")
    write_receipt(root, open_bundle(root).receipt)
    assert verify([str(root), "--engine", "onnx", "--map", str(tmp_path / "map.png")]) == 5
    assert "of the cells keep" not in capsys.readouterr().out
    with pytest.raises(ParityError, match="classes agree"):
        brixel_edge.open_model(root, backend="ort", precision="fp32")


def test_run_shows_masks_in_the_classes_colours(world, bundle, tmp_path, capsys):
    panels = tmp_path / "panels"
    arguments = [str(bundle), "--source", str(world / "camvid" / "test" / "images"), "--headless", "--save",
                 str(panels), "--backend", "ort", "--precision", "fp32", "--threads", "1", "--json"]  # fmt: skip
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["processed"] == 2
    panel = cv2.imread(str(next(path for path in sorted(panels.iterdir()) if "1" in path.name)))
    middle, width = panel.shape[1] // 2, panel.shape[1] // 2
    sky, car = (np.array(CAMVID_COLOURS[number][::-1]) for number in (0, 8))
    assert (panel[100, middle + width // 20] == sky).all() and (panel[100, -width // 20] == car).all()


def test_the_graph_can_give_features_too(world, probe, student, capsys):
    out = world / "both.brixel"
    assert export(export_arguments(world, out, "--head", str(probe), "--keep-features", "--engine", "onnx")) == 0
    assert "features (1, 32, 8, 12), head (1, 11, 8, 12): 11 classes" in capsys.readouterr().out
    frame = frame_of(world)
    with brixel_edge.open_model(out, backend="ort", threads=1) as model:
        found = model(frame)
    parity = open_bundle(out).receipt.parity["graph.fp32.onnx"]
    assert parity.cosine_mean > 0.9999 and parity.answers.agreement > 0.999
    outside = load_head(probe)(found.values.transpose(2, 0, 1)[None])[0].transpose(1, 2, 0)
    assert np.abs(outside - found.logits).max() < 1e-4 * np.abs(outside).max()
    assert found.similarity(found.at(x=5, y=5))[0, 0] == pytest.approx(1, abs=1e-3)
    # What it gives can be scored like any other's, and a head trained on it is of the same features.
    path = world / "again.safetensors"
    scored = ["camvid", "--data", str(world / "camvid"), "--model", str(out), "--seeds", "1", "--epochs", "1"]
    assert evaluate([*scored, "--save-head", str(path), "--head-kind", "pca-3"]) == 0
    again = load_head(path)
    assert again.spec.kind == "pca" and again.origin.digest == load_head(probe).origin.digest


def test_a_head_of_other_features_is_refused_before_anything_is_built(world, student, tmp_path, capsys):
    other = load_student(load_backbone("tiny"), "random", "conv", seed=3, conv=ConvSettings(width=16))
    save_head(tmp_path / "p.safetensors", head_of(other))
    arguments = export_arguments(world, tmp_path / "x.brixel", "--head", str(tmp_path / "p.safetensors"))
    assert export(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "reads other features (tiny, adapter conv" in error and "brixel-eval ... --save-head" in error
    assert not (tmp_path / "x.brixel").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--keep-features"], "--keep-features is for --head"),
        (["--head", "p.safetensors", "--features", "fp16", "--engine", "onnx-fp16"], "add --keep-features"),
        (["--head", "missing.safetensors"], "no head at missing.safetensors"),
    ],
)
def test_flags_of_heads_that_do_not_fit(world, tmp_path, more, message, capsys):
    assert export(export_arguments(world, tmp_path / "x.brixel", *more)) == 2
    assert message in capsys.readouterr().err


def test_the_head_was_decided_when_the_directory_was_made(bundle, probe, capsys):
    assert export(["--from", str(bundle), "--engine", "onnx-fp16", "--head", str(probe)]) == 2
    assert "--head was decided when" in capsys.readouterr().err


def test_a_graph_of_answers_alone_has_no_features_to_score(world, bundle, capsys):
    assert evaluate(["camvid", "--data", str(world / "camvid"), "--model", str(bundle)]) == 2
    assert "gives its head's answer alone" in capsys.readouterr().err
