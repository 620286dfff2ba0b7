"""A graph is what its spec says and what was exported: edited specs and flipped bits are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnx
import pytest
import tiny_model
from receipts import receipt_of

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.agreement import check_bare_graph
from brixel_edge.model.bundle import DEFAULT_MODEL, open_bundle, resolve_model, write_receipt
from brixel_edge.model.graph_facts import graph_ends, graph_facts
from brixel_edge.model.onnx_file import DIGEST_KEY, SPEC_KEY, has_intact_digest, read_onnx_metadata, with_digest


@pytest.fixture
def bundle(tmp_path) -> Path:
    root = tmp_path / "m.brixel"
    root.mkdir()
    tiny_model.save(root / "graph.fp32.onnx")
    write_receipt(root, receipt_of(tiny_model.spec()))
    return root


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda spec: spec["image"].update(channels="RGB"), "image.channels RGB, graph.fp32.onnx says BGR"),
        (lambda spec: spec["image"].update(width=64), "image.width 64, graph.fp32.onnx says 48"),
        (lambda spec: spec["image"].update(mean=[0, 0, 0]), "image.mean"),
        (lambda spec: spec.update(dim=8), "dim 8, graph.fp32.onnx says 4"),
        (lambda spec: spec.update(grid=[4, 6]), r"grid \[4, 6\], graph.fp32.onnx says \[8, 12\]"),
        (lambda spec: spec.update(trained=False), "trained False, graph.fp32.onnx says True"),
    ],
)
def test_an_edited_receipt_is_refused(bundle, edit, told):
    record = json.loads((bundle / "model.json").read_text())
    edit(record["spec"])
    (bundle / "model.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match=rf"model\.json says {told}.*: export the model again"):
        resolve_model(bundle)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dim": 8}, r"gives features fp32 \(1, 4, 8, 12\), its spec says float features \(1, 8, 8, 12\)"),
        ({"grid": (4, 6)}, r"its spec says float features \(1, 4, 4, 6\)"),
        ({"image": {"height": 64}}, r"takes image uint8 \(1, 32, 48, 3\), its spec says one uint8 \(1, 64, 48, 3\)"),
    ],
)
def test_a_spec_that_is_not_the_graph_s_own_shapes_is_refused(tmp_path, bundle, changes, told):
    """Whoever edits both, receipt and metadata, digest included, still meets the tensors themselves."""
    spec = tiny_model.spec()
    changes = {**changes, "image": dataclasses.replace(spec.image, **changes.get("image", {}))}
    spec = dataclasses.replace(spec, **changes)
    path = bundle / "graph.fp32.onnx"
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {SPEC_KEY: json.dumps(spec.to_json())})
    path.write_bytes(with_digest(model.SerializeToString()))
    write_receipt(bundle, receipt_of(spec))
    for given in (bundle, path):
        with pytest.raises(BundleError, match=told):
            resolve_model(given)


def test_features_that_are_no_numbers_are_refused(tmp_path):
    model = onnx.load(tiny_model.save(tmp_path / "t.onnx"))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    (tmp_path / "t.onnx").write_bytes(with_digest(model.SerializeToString()))
    with pytest.raises(BundleError, match=r"gives features int8 \(1, 4, 8, 12\), its spec says float"):
        resolve_model(tmp_path / "t.onnx")


def test_any_flipped_bit_of_a_bare_graph_is_refused(tmp_path):
    """Of weights, operators, shapes and spec: wherever the bit lies, nothing is opened."""
    path = tiny_model.save(tmp_path / "t.onnx")
    whole = path.read_bytes()
    assert check_bare_graph(path) == tiny_model.spec()
    end = whole.index(DIGEST_KEY.encode())
    for position in range(0, end - 8, 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        with pytest.raises((BundleError, SpecError)):
            resolve_model(path)


def test_a_flipped_weight_says_so(tmp_path):
    path = tiny_model.save(tmp_path / "t.onnx")
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = b"\x01" + model.graph.initializer[0].raw_data[1:]
    onnx.save(model, str(path))
    with pytest.raises(BundleError, match=r"t\.onnx differs from the graph that was exported .*; copy it again, or"):
        resolve_model(path)


def test_other_metadata_may_come_and_go(tmp_path):
    path = tiny_model.save(tmp_path / "t.onnx")
    model = onnx.load(path)
    model.metadata_props.add(key="robot", value="Nr. 5")
    onnx.save(model, str(path))
    assert resolve_model(path).spec == tiny_model.spec()
    assert read_onnx_metadata(path)["robot"] == "Nr. 5"


def test_a_new_digest_takes_the_place_of_the_old_one(tmp_path):
    path = tiny_model.save(tmp_path / "t.onnx")
    content = path.read_bytes()
    assert with_digest(content) == content
    assert [entry.key for entry in onnx.load(path).metadata_props].count(DIGEST_KEY) == 1
    onnx.checker.check_model(onnx.load(path))


def test_a_graph_without_a_digest_is_warned_of(tmp_path, warnings):
    model = onnx.load(tiny_model.save(tmp_path / "t.onnx"))
    kept = [entry for entry in model.metadata_props if entry.key != DIGEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, str(tmp_path / "t.onnx"))
    assert resolve_model(tmp_path / "t.onnx").spec == tiny_model.spec()
    assert "t.onnx carries no digest of its weights" in warnings.text


def test_the_packaged_model_carries_its_digest():
    assert has_intact_digest(DEFAULT_MODEL)


def test_ends_are_those_of_the_whole_graph(graph):
    facts = graph_facts(graph)
    assert graph_ends(graph) == (facts.inputs, facts.outputs)


def test_every_graph_of_an_export_carries_its_digest(mini_fp16_bundle):
    bundle = open_bundle(mini_fp16_bundle)
    graphs = [name for name in bundle.receipt.files if name.endswith(".onnx")]
    assert graphs == ["graph.fp16.onnx", "graph.fp32.onnx"]
    for name in graphs:
        assert has_intact_digest(bundle.graph(name))
