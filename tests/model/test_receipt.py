"""The receipt: its schema, that it repeats but for times, that earlier versions are read; the proof that travels."""

import copy
import json
import shutil
from dataclasses import fields
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from brixel_edge.errors import BundleError
from brixel_edge.export.graph.fuse import spec_from_student
from brixel_edge.export.graph.reference import reference_features
from brixel_edge.model.bundle import open_bundle
from brixel_edge.model.receipt import RECEIPT_VERSION, REQUIRED, SCHEMA_PATH, Receipt, read_receipt
from brixel_edge.model.receipt_sections import Measured
from brixel_edge.proof.proof import MAX_CELLS, lattice_step, load_proof, proof_from_references, save_proof


@pytest.fixture(scope="module")
def exported(mini_fp16_bundle) -> Path:
    return mini_fp16_bundle


@pytest.fixture
def schema() -> dict:
    return json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))


def without_times(receipt: dict) -> dict:
    kept = copy.deepcopy(receipt)
    del kept["measured"]
    return kept


def test_the_same_inputs_give_the_same_bytes_and_the_same_receipt_but_for_times(export_mini_fp16, exported):
    second = export_mini_fp16("second")
    assert {path.name: path.read_bytes() for path in exported.iterdir() if path.name != "model.json"} == {
        path.name: path.read_bytes() for path in second.iterdir() if path.name != "model.json"
    }
    first, again = (json.loads((out / "model.json").read_text()) for out in (exported, second))
    assert without_times(first) == without_times(again)
    assert "seconds" in first["measured"]


def test_a_traced_graph_has_the_same_bytes_every_time(mini_student, tmp_path):
    from brixel_edge.export.graph.fuse import FusedModel
    from brixel_edge.export.graph.to_onnx import onnx_from_model
    from brixel_edge.network.student import Student

    bare = Student(mini_student.backbone, None).eval()
    spec = spec_from_student(bare, 32, 48, "none", name="vit_mini_dinov3")
    for name in ("a.onnx", "b.onnx"):
        onnx_from_model(FusedModel(bare, spec).eval(), spec, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_receipt_follows_its_schema(exported, schema):
    receipt = json.loads((exported / "model.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(receipt, schema)
    assert {"manifest_version", *REQUIRED} == set(schema["required"])
    assert {"manifest_version", *(field.name for field in fields(Receipt))} == schema["properties"].keys()
    assert receipt["precisions"]["graph.fp16.onnx"]["GridSample"] == {"fp32": 6}
    assert receipt["census"]["graph.fp16.onnx"]["ops"]["LayerNormalization"] == 33
    assert receipt["islands"]["graph.fp16.onnx"]["photographs"] == ["c"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda receipt: receipt["files"]["graph.fp32.onnx"].update(sha256="abc"), "files: 'abc' is no sha256"),
        (lambda receipt: receipt.update(surprise=1), "surprise is not known"),
        (
            lambda receipt: receipt["parity"]["graph.fp16.onnx"].pop("finite"),
            r"parity\.graph\.fp16\.onnx\.finite is missing",
        ),
        (
            lambda receipt: receipt["attempts"][0].update(sampler="nearest"),
            r"attempts\[0\]\.sampler is 'nearest' and not one of gridsample, gather, materialised",
        ),
        (
            lambda receipt: receipt["census"]["graph.fp32.onnx"].update(opset="18"),
            r"census\.graph\.fp32\.onnx\.opset is '18' and not an integer",
        ),
        (lambda receipt: receipt["tools"].update(torch=2.0), "tools.torch is 2.0 and not text"),
        (lambda receipt: receipt.update(attempts={}), "attempts is {} and not a list"),
        (lambda receipt: receipt.pop("tools"), "tools is missing"),
    ],
)
def test_schema_and_reader_refuse_what_is_none(exported, schema, tmp_path, spoil, told):
    receipt = json.loads((exported / "model.json").read_text())
    spoil(receipt)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(receipt, schema)
    (tmp_path / "model.json").write_text(json.dumps(receipt))
    with pytest.raises(BundleError, match=told):
        read_receipt(tmp_path / "model.json")


RECEIPTS = sorted((Path(__file__).parents[1] / "receipts").glob("*.json"))


@pytest.mark.parametrize("path", RECEIPTS, ids=lambda path: path.stem)
def test_receipts_that_earlier_releases_wrote_are_read(path, tmp_path, capsys):
    """Written by the exporter of their time, not by hand."""
    from brixel_edge.commands.inspect import main

    (folder := tmp_path / "m.brixel").mkdir()
    shutil.copy(path, folder / "model.json")
    bundle = open_bundle(folder)
    assert (bundle.spec.backbone, bundle.spec.grid) == ("vit_mini_dinov3", (16, 24))
    assert bundle.receipt.samplers == dict.fromkeys(bundle.receipt.census or bundle.receipt.parity, "gridsample")
    assert main([str(folder)]) == 0
    told = capsys.readouterr().out
    assert "vit_mini_dinov3" in told and "missing" in told  # its files are not here
    assert f"{bundle.receipt.parity['graph.fp32.onnx'].frobenius:.1e}" in told


def test_a_receipt_of_each_version_is_kept():
    kept = [json.loads(path.read_text(encoding="utf-8"))["manifest_version"] for path in RECEIPTS]
    assert kept == list(range(1, RECEIPT_VERSION + 1))


def test_a_kept_receipt_of_this_version_follows_the_schema_and_is_written_as_it_was(schema):
    kept = json.loads(RECEIPTS[-1].read_text(encoding="utf-8"))
    jsonschema.validate(kept, schema)
    assert json.dumps(read_receipt(RECEIPTS[-1]).to_json()) == json.dumps(kept)


def test_version_1_is_read_as_this_one(exported, tmp_path):
    receipt = json.loads((exported / "model.json").read_text())
    old = {key: receipt[key] for key in ("spec", "weights", "census", "tools")}
    old |= {
        "manifest_version": 1,
        "sampler": "gather",
        "files": {"graph.fp32.onnx": receipt["files"]["graph.fp32.onnx"]},
    }
    figures = receipt["parity"]["graph.fp32.onnx"]
    old["parity"] = {"graph.fp32.onnx": {k: v for k, v in figures.items() if k not in ("photographs", "gate", "also")}}
    (tmp_path / "model.json").write_text(json.dumps(old))
    read = read_receipt(tmp_path / "model.json")
    assert read.to_json()["manifest_version"] == 2
    assert read.samplers == {"graph.fp32.onnx": "gather"}
    assert (read.attempts, read.islands, read.measured) == ((), {}, Measured())
    assert (read.requested.engine, read.requested.made.sampler) == ("onnx", "gather")
    assert read.to_json()["parity"] == {
        "graph.fp32.onnx": {**old["parity"]["graph.fp32.onnx"], "photographs": [], "gate": "fp32", "also": []}
    }
    assert open_bundle(tmp_path).precisions == ["fp32"]


def test_a_later_version_is_refused_with_what_to_do(exported, tmp_path):
    receipt = {**json.loads((exported / "model.json").read_text()), "manifest_version": 3}
    (tmp_path / "model.json").write_text(json.dumps(receipt))
    with pytest.raises(BundleError, match="has version 3, this release reads 1 to 2; update brixel-edge"):
        read_receipt(tmp_path / "model.json")


def test_the_proof_is_what_pytorch_computed(exported, mini_student, mini_images):
    proof = load_proof(exported / "proof.npz")
    spec = open_bundle(exported).spec
    expected = reference_features(mini_student, spec, mini_images[:2])
    assert proof.names == ("a", "b")
    assert np.array_equal(proof.images, np.concatenate(mini_images[:2]))
    assert proof.step == 1
    assert np.abs(proof.features.astype(np.float32) - np.concatenate(expected)).max() < 5e-3
    report = proof.compare([{"features": map_} for map_ in expected])
    assert report.cosine_mean > 0.999999
    assert 1e-5 < report.frobenius < 4e-4  # of keeping it in fp16
    assert proof.compare([{"features": np.roll(map_, 1, axis=2)} for map_ in expected]).cosine_mean < 0.9999


@pytest.mark.parametrize(
    ("grid", "step"), [((64, 64), 1), ((65, 64), 3), ((256, 256), 5), ((16, 400), 3), ((512, 512), 9), ((1, 1), 1)]
)
def test_large_maps_are_kept_on_an_odd_lattice(grid, step):
    assert lattice_step(grid) == step
    assert step % 2 == 1
    kept = np.zeros(grid)[::step, ::step]
    assert kept.size <= MAX_CELLS


def test_a_proof_with_huge_features_is_kept_in_fp32(tmp_path):
    features = [np.full((1, 2, 3, 3), 1e5, np.float32)]
    proof = proof_from_references(["x"], [np.zeros((1, 4, 4, 3), np.uint8)], features)
    save_proof(proof, tmp_path / "proof.npz")
    again = load_proof(tmp_path / "proof.npz")
    assert again.features.dtype == np.float32
    assert again.compare([{"features": map_} for map_ in features]).max_abs == 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"text"])
def test_a_damaged_proof_is_one_clear_error(tmp_path, content):
    (tmp_path / "proof.npz").write_bytes(content)
    with pytest.raises(BundleError, match="not a readable proof"):
        load_proof(tmp_path / "proof.npz")
