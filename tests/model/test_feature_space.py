"""Which features may be compared: those of one model, over engines, precisions and sizes, and of no other."""

from __future__ import annotations

import dataclasses
import shutil

import onnx
import pytest
import tiny_bundle
import tiny_model

from brixel_edge.model.bundle import ResolvedModel, open_bundle, resolve_model, write_receipt
from brixel_edge.model.feature_space import feature_space_of
from brixel_edge.model.receipt_sections import WeightFile, Weights

ALL = ("graph.fp32.onnx", "graph.fp16.onnx", "graph.int8.ort.onnx")


def space(path, graph=None):
    if graph is None:
        return feature_space_of(resolve_model(path))
    bundle = open_bundle(path)
    return feature_space_of(ResolvedModel(graph=path / graph, spec=bundle.spec, name="m", root=path))


def with_weights(root, backbone="a" * 64, adapter="b" * 64, **changes):
    """The directory with other weight files and spec in its receipt."""
    receipt = open_bundle(root).receipt
    weights = Weights(
        backbone=backbone and WeightFile(file="backbone.pth", sha256=backbone),
        adapter=adapter and WeightFile(file="adapter.safetensors", sha256=adapter),
    )
    write_receipt(
        root, dataclasses.replace(receipt, weights=weights, spec=dataclasses.replace(receipt.spec, **changes))
    )
    return root


def test_every_engine_of_a_directory_has_the_same_space(tmp_path):
    root = tiny_bundle.save(tmp_path / "m.brixel", ALL)
    spaces = [space(root, name) for name in (*ALL, "engine.sm87.10.3.0.fp16.plan")]
    assert len({one.digests for one in spaces}) == 1
    assert all(one.is_that_of(spaces[0]) for one in spaces)


def test_a_graph_of_a_directory_is_the_same_wherever_it_is_opened(tmp_path):
    root = tiny_bundle.save(tmp_path / "m.brixel", ALL)
    whole = space(root)
    # Other bytes, as a half-precision graph has, but of this directory.
    tiny_model.save(root / "graph.fp16.onnx", bias=3.0)
    write_receipt(root, open_bundle(root).receipt)
    assert space(root / "graph.fp16.onnx").is_that_of(whole)
    shutil.copy(root / "graph.fp32.onnx", tmp_path / "alone.onnx")
    assert space(tmp_path / "alone.onnx").is_that_of(whole)
    # Bytes that the directory does not list are none of its.
    tiny_model.save(root / "graph.fp16.onnx", bias=4.0)
    assert not space(root / "graph.fp16.onnx").is_that_of(whole)


def test_another_model_has_another_space(tmp_path):
    one = tiny_model.save(tmp_path / "one.onnx")
    other = tiny_model.save(tmp_path / "other.onnx", bias=1.0)
    assert not space(one).is_that_of(space(other))
    assert not space(None).is_that_of(space(one))
    assert space(None).is_that_of(space(None))


def test_metadata_of_others_change_nothing(tmp_path):
    path = tiny_model.save(tmp_path / "one.onnx")
    before = space(path)
    model = onnx.load(path)
    model.metadata_props.add(key="mine", value="note")
    onnx.save(model, path)
    assert space(path).is_that_of(before)


def test_the_same_weights_at_another_size_have_the_same_space(tmp_path):
    small = with_weights(tiny_bundle.save(tmp_path / "small.brixel"), adapter=None)
    large = with_weights(tiny_bundle.save(tmp_path / "large.brixel"), adapter=None)
    # A graph of another size is another file.
    tiny_model.save(large / "graph.fp32.onnx", bias=5.0)
    write_receipt(large, open_bundle(large).receipt)
    assert space(large / "graph.fp32.onnx").is_that_of(space(small))
    assert set(space(large).digests) != set(space(small).digests)


@pytest.mark.parametrize(
    "change",
    [{"backbone": "c" * 64}, {"adapter": "c" * 64}, {"tap_layers": (0, 1)}, {"patch_px": 14}],
)
def test_other_weights_or_another_use_of_them_is_another_space(tmp_path, change):
    one = with_weights(tiny_bundle.save(tmp_path / "one.brixel"))
    other = tiny_bundle.save(tmp_path / "other.brixel")
    tiny_model.save(other / "graph.fp32.onnx", bias=5.0)
    weights = {name: change[name] for name in ("backbone", "adapter") if name in change}
    rest = {name: value for name, value in change.items() if name not in weights}
    assert not feature_space_of_directory(with_weights(other, **weights, **rest)).is_that_of(
        feature_space_of_directory(one)
    )


def feature_space_of_directory(root):
    return feature_space_of(
        ResolvedModel(graph=root / "graph.fp32.onnx", spec=open_bundle(root).spec, name=root.name, root=root)
    )


def test_random_weights_are_known_by_their_graph_alone(tmp_path):
    one = with_weights(tiny_bundle.save(tmp_path / "one.brixel"), backbone=None)
    assert [digest.partition(":")[0] for digest in space(one).digests] == ["graph"]


def test_a_directory_of_plans_alone_has_a_space(tmp_path):
    root = tiny_bundle.save(tmp_path / "m.brixel")
    (root / "graph.fp32.onnx").rename(root / "engine.sm87.10.3.0.fp16.plan")
    write_receipt(root, open_bundle(root).receipt)
    one = space(root, "engine.sm87.10.3.0.fp16.plan")
    assert one.digests[0].startswith("files:")
    assert one.is_that_of(space(root, "engine.sm87.10.3.0.fp16.plan"))


def test_a_space_is_named_for_people(tmp_path):
    text = str(space(tiny_model.save(tmp_path / "one.onnx")))
    assert text.startswith("one.onnx (4 channels, ")
