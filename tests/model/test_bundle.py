"""Model directories and bare files: what is read, what is refused, and that nothing is half-written."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from receipts import receipt_of

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.backbones import IMAGENET_MEAN, IMAGENET_STD
from brixel_edge.model.bundle import open_bundle, resolve_model, staged_directory, write_receipt
from brixel_edge.model.onnx_file import SPEC_KEY, read_onnx_metadata, spec_from_onnx
from brixel_edge.model.spec import ImageSpec, ModelSpec

SPEC = ModelSpec(
    backbone="b",
    patch_px=16,
    dim=3,
    tap_layers=(0,),
    adapter="none",
    image=ImageSpec(height=32, width=32, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    grid=(2, 2),
    licence="l",
)


def write_graph(path: Path, metadata: dict[str, str]) -> None:
    value = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 32, 32, 3])
    other = helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 3, 2, 2])
    nodes = [helper.make_node("Cast", ["image"], ["features"], to=TensorProto.FLOAT)]
    weight = numpy_helper.from_array(np.arange(64, dtype=np.float32), "weight")
    model = helper.make_model(helper.make_graph(nodes, "g", [value], [other], [weight]))
    helper.set_model_props(model, metadata)
    onnx.save(model, path)


@pytest.fixture
def bundle(tmp_path) -> Path:
    out = tmp_path / "m.brixel"
    with staged_directory(out) as stage:
        write_graph(stage / "graph.fp32.onnx", {SPEC_KEY: json.dumps(SPEC.to_json())})
        write_receipt(stage, receipt_of(SPEC))
    return out


def test_metadata_reader_agrees_with_the_onnx_package(tmp_path):
    props = {"a": "1", SPEC_KEY: json.dumps(SPEC.to_json()), "long": "x" * 100_000, "umlaut": "ä"}
    write_graph(tmp_path / "g.onnx", props)
    assert read_onnx_metadata(tmp_path / "g.onnx") == props
    assert {p.key: p.value for p in onnx.load(tmp_path / "g.onnx").metadata_props} == props
    assert spec_from_onnx(tmp_path / "g.onnx") == SPEC


def test_bundle_round_trip(bundle):
    opened = open_bundle(bundle)
    assert opened.spec == SPEC
    assert opened.precisions == ["fp32"]
    assert resolve_model(bundle).graph == bundle / "graph.fp32.onnx"
    assert resolve_model(bundle / "graph.fp32.onnx").spec == SPEC


def test_a_changed_graph_is_refused(bundle):
    with (bundle / "graph.fp32.onnx").open("ab") as stream:
        stream.write(b"\x00")
    with pytest.raises(BundleError, match="sha256"):
        resolve_model(bundle)


def test_a_precision_that_is_not_there_lists_those_that_are(bundle):
    with pytest.raises(BundleError, match=r"has no graph\.int8\.onnx; it has graph\.fp32\.onnx"):
        resolve_model(bundle, "int8")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"manifest_version": 1}', '{"manifest_version": 99, "spec": {}}', "\udcff"]
)
def test_damaged_receipts_are_one_clear_error(bundle, content):
    (bundle / "model.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises((BundleError, SpecError), match=r"export|receipt"):
        open_bundle(bundle)


def test_files_that_are_no_models_are_refused(tmp_path, photograph_paths):
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("hello, world: this is no model")
    write_graph(tmp_path / "whole.onnx", {SPEC_KEY: json.dumps(SPEC.to_json())})
    cut = (tmp_path / "whole.onnx").read_bytes()[:-20]
    (tmp_path / "cut.onnx").write_bytes(cut)
    for path in (tmp_path / "empty.onnx", tmp_path / "text.onnx", tmp_path / "cut.onnx", photograph_paths[0]):
        with pytest.raises(BundleError, match="not an ONNX model"):
            resolve_model(path)
    with pytest.raises(BundleError, match="no model at"):
        resolve_model(tmp_path / "absent.brixel")
    with pytest.raises(BundleError, match=r"no model\.json|no model directory"):
        resolve_model(tmp_path)


def test_an_onnx_file_of_others_is_refused(tmp_path):
    write_graph(tmp_path / "g.onnx", {"author": "someone"})
    with pytest.raises(BundleError, match="carries no brixel spec"):
        spec_from_onnx(tmp_path / "g.onnx")


def test_a_failed_export_leaves_the_earlier_one(bundle):
    before = (bundle / "model.json").read_bytes()
    with pytest.raises(RuntimeError, match="on purpose"), staged_directory(bundle) as stage:
        (stage / "graph.fp32.onnx").write_bytes(b"half")
        raise RuntimeError("on purpose")
    assert (bundle / "model.json").read_bytes() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["m.brixel"]


def test_a_second_export_replaces_the_first_whole(bundle):
    (bundle / "engine.old.plan").write_bytes(b"stale")
    with staged_directory(bundle) as stage:
        write_graph(stage / "graph.fp32.onnx", {})
        write_receipt(stage, receipt_of(SPEC))
    assert sorted(path.name for path in bundle.iterdir()) == ["graph.fp32.onnx", "model.json"]


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("a file, no folder")
    with (
        pytest.raises(BundleError, match=r"nothing can be written at .*m\.brixel \(.+\); choose another --out"),
        staged_directory(tmp_path / "notes.txt" / "m.brixel"),
    ):
        pass
    assert (tmp_path / "notes.txt").read_text() == "a file, no folder"


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="is not a model directory"), staged_directory(tmp_path):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
