"""Heads in every precision: INT8 of calibration frames, halves of prototypes, graphs that --from makes; each gated."""

import dataclasses
import json
import shutil

import cv2
import jsonschema
import numpy as np
import pytest
from tiny_heads import head_of

import brixel_edge
from brixel_edge.commands.export import main as export
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


@pytest.fixture(scope="module")
def student(in_tiny_world):
    with in_tiny_world():
        return load_student(load_backbone("tiny"), "random", "conv", conv=ConvSettings(width=16))


@pytest.fixture(scope="module")
def world(tmp_path_factory, in_tiny_world, photographs, student):
    """Views of photographs to calibrate on, the file of a small adapter, and heads on its features."""
    root, rng = tmp_path_factory.mktemp("precisions"), np.random.default_rng(0)
    (root / "calib").mkdir()
    for number in range(24):
        picture = photographs[number % len(photographs)]
        y, x = (int(rng.integers(0, side - 128)) for side in picture.shape[:2])
        cv2.imwrite(str(root / "calib" / f"{number}.png"), picture[y : y + 128, x : x + 128])
    save_adapter(root / "adapter.safetensors", student.refiner.state_dict(), adapter_metadata(student))
    for kind in ("segmentation", "prototypes"):
        save_head(root / f"{kind}.safetensors", head_of(student, kind, outputs=3))
    with in_tiny_world():
        yield root


def exported(world, kind, *more):
    """A model directory with a head of a kind."""
    out = world / f"{kind}{len(more)}.brixel"
    arguments = [
        "--backbone", "tiny", "--backbone-weights", "random", "--adapter", "conv", "--size", "64x64", "--no-bench",
        "--adapter-weights", str(world / "adapter.safetensors"), "--head", str(world / f"{kind}.safetensors"),
        "--min-speedup", "0", "--out", str(out), *more,
    ]  # fmt: skip
    assert export(arguments) == 0
    return out


@pytest.fixture(scope="module")
def prototypes(world):
    """A head that is not linear, in half precision."""
    return exported(world, "prototypes", "--engine", "onnx-fp16,onnx-bf16")


@pytest.fixture(scope="module")
def added_to(world):
    """(directory, receipt before, as it was): a folded probe in fp32, whose other graphs --from makes without torch."""
    root = exported(world, "segmentation", "--engine", "onnx")
    before = open_bundle(root).receipt
    kept = world / "fp32-alone.brixel"
    shutil.copytree(root, kept)
    frames = ["--calib", str(world / "calib"), "--min-speedup", "0"]
    assert export(["--from", str(root), "--engine", "onnx-fp16,onnx-int8", *frames]) == 0
    return root, before, kept


def against_pytorch(root, precision, head, student, photographs):
    """Of a graph, against the head in numpy on PyTorch's features: share of equal masks, error of scores, classes."""
    spec, agreeing, classes, wrong, spread = open_bundle(root).spec, [], set(), 0.0, 0.0
    with brixel_edge.open_model(root, backend="ort", precision=precision, threads=1) as model:
        for frame in photographs:
            small = resize_image(frame, 64, 64)
            (features,) = reference_features(student, spec, [small[None]])
            found, wanted = model(small), head(features)[0].transpose(1, 2, 0)
            agreeing.append(np.mean(found.labels == wanted.argmax(-1)))
            classes |= set(found.labels.flatten().tolist())
            wrong += np.square(found.logits - wanted).sum()
            spread += np.square(wanted - wanted.mean((0, 1))).sum()
    return np.mean(agreeing), np.sqrt(wrong / spread), classes


def test_prototypes_in_half_precision_are_gated_by_classes(prototypes, world, student, photographs):
    for precision, least in (("fp16", 0.99), ("bf16", 0.97)):
        parity = open_bundle(prototypes).receipt.parity[f"graph.{precision}.onnx"]
        assert parity.gate == precision and parity.cosine_mean is None and parity.answers.kind == "prototypes"
        assert parity.answers.agreement >= least
    # ONNX Runtime's processor kernels know no bf16; the gate above rounds every tensor instead.
    head = load_head(world / "prototypes.safetensors")
    agreement, error, classes = against_pytorch(prototypes, "fp16", head, student, photographs)
    assert agreement >= 0.99 and error <= 0.02 and len(classes) > 1


@pytest.mark.parametrize(("precision", "most"), [("fp16", 0.02), ("int8", 0.3)])
def test_a_folded_probe_is_added_in_other_precisions(added_to, precision, most, world, student, photographs):
    receipt = open_bundle(added_to[0]).receipt
    jsonschema.validate(receipt.to_json(), json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
    name = "graph.int8.ort.onnx" if precision == "int8" else f"graph.{precision}.onnx"
    parity = receipt.parity[name]
    assert parity.gate == precision and parity.cosine_mean is None and parity.answers.kind == "segmentation"
    head = load_head(world / "segmentation.safetensors")
    agreement, error, _ = against_pytorch(added_to[0], precision, head, student, photographs)
    assert error <= most and agreement >= 0.95 and parity.answers.error <= most and parity.answers.agreement >= 0.95


def test_int8_of_frames_is_judged_by_classes_on_frames_of_no_other_use(added_to):
    int8 = open_bundle(added_to[0]).receipt.int8
    assert int8.kind == "static" and int8.int8_nodes > 0
    for lowered in int8.lowered:
        assert set(lowered["fidelity"]) == {"head"} and lowered["fidelity"]["head"]["lower"]["agreement"] >= 0.95


def test_what_was_made_of_the_directory_is_no_other_graph(added_to):
    root, before, _ = added_to
    after = open_bundle(root).receipt
    assert after.spec == before.spec and after.spec.head.classes == ("class 0", "class 1", "class 2")
    assert after.parity["graph.fp32.onnx"] == before.parity["graph.fp32.onnx"]
    assert after.weights == before.weights


def test_other_classes_than_the_proof_s_are_not_added(added_to, tmp_path, capsys):
    root = tmp_path / "m.brixel"
    shutil.copytree(added_to[2], root)
    proof = load_proof(root / "proof.npz")
    save_proof(dataclasses.replace(proof, answers=-proof.answers), root / "proof.npz")
    write_receipt(root, open_bundle(root).receipt)
    assert export(["--from", str(root), "--engine", "onnx-fp16"]) == 0
    tried = open_bundle(root).receipt.attempts[-4:]
    assert [(attempt.precision, attempt.passed) for attempt in tried] == [
        ("fp16", False), ("fp16", False), ("bf16", False), ("fp32", True),
    ]  # fmt: skip
    assert all("0.00% of the cells keep their class" in attempt.error for attempt in tried[:3])
    assert not list(root.glob("graph.fp16*")) and not list(root.glob("graph.bf16*"))
    assert "not the first choice, fp32" in capsys.readouterr().out
