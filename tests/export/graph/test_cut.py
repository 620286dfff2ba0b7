"""One graph as two: together they are the one, and only pre-processing is in both."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import split_model

from brixel_edge.commands.export import build_parser
from brixel_edge.commands.export_request import request_from_arguments
from brixel_edge.errors import BuildError, SpecError
from brixel_edge.export.graph.cut import cut_at_taps, write_halves
from brixel_edge.machine.openvino_hint import PRECISION_KEY


def session(graph):
    return onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])


def run(graph, feeds):
    own = session(graph)
    names = [output.name for output in own.get_outputs()]
    return dict(zip(names, own.run(names, feeds), strict=True))


@pytest.fixture(scope="module")
def halves(mini_graph, tmp_path_factory):
    """Of the paper's adapter, whose deformable attention has softmaxes and norms of its own."""
    graph = tmp_path_factory.mktemp("cut") / "graph.fp32.onnx"
    graph.write_bytes(mini_graph().read_bytes())
    return graph, *write_halves(graph)


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)


def test_together_they_are_the_graph(halves):
    graph, backbone, adapter = halves
    for seed in range(3):
        pixels = {"image": image(seed)}
        whole = run(graph, pixels)["features"]
        assert np.abs(run(adapter, {**pixels, **run(backbone, pixels)})["features"] - whole).max() <= 1e-5


def test_the_adapter_follows_the_picture_with_old_maps(halves):
    _, backbone, adapter = halves
    maps = run(backbone, {"image": image(0)})
    one, other = (run(adapter, {"image": image(seed), **maps})["features"] for seed in (0, 1))
    assert np.abs(one - other).max() > 1e-3


def test_only_preprocessing_is_in_both(halves):
    _, backbone, adapter = (onnx.load(str(path)) for path in halves)
    shared = {node.output[0] for node in backbone.graph.node} & {node.output[0] for node in adapter.graph.node}
    kinds = {node.op_type for node in backbone.graph.node if node.output[0] in shared}
    assert kinds <= {"Cast", "Transpose", "Gather", "Mul", "Add"}
    assert sum(node.op_type == "LayerNormalization" for node in backbone.graph.node) > 4
    weights = {entry.name for entry in backbone.graph.initializer} & {entry.name for entry in adapter.graph.initializer}
    own = [np.prod(entry.dims) for entry in adapter.graph.initializer if entry.name not in weights]
    both = [np.prod(entry.dims) for entry in adapter.graph.initializer if entry.name in weights]
    assert sum(both) < sum(own) / 100  # shapes, colours, zeros: no weights


def test_what_a_lowering_makes_of_a_tap_is_no_tap_and_what_openvino_computes_in_is_kept(halves, tmp_path):
    """As Q/DQ does: the adapter reads `tap.0/q`, made from `tap.0`."""
    model = onnx.load(str(halves[0]))
    tap = next(node.output[0] for node in model.graph.node if node.output[0].startswith("tap."))
    place = next(index for index, node in enumerate(model.graph.node) if tap in node.input)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = f"{tap}/q" if name == tap else name
    model.graph.node.insert(place, onnx.helper.make_node("Identity", [tap], [f"{tap}/q"]))
    model.metadata_props.add(key=PRECISION_KEY, value="f32")
    onnx.save(model, str(tmp_path / "graph.int8.onnx"))
    backbone, adapter = write_halves(tmp_path / "graph.int8.onnx")
    assert {output.name for output in onnx.load(str(backbone)).graph.output} == {
        output.name for output in onnx.load(str(halves[1])).graph.output
    }
    for half in (backbone, adapter):
        assert [(entry.key, entry.value) for entry in onnx.load(str(half)).metadata_props] == [(PRECISION_KEY, "f32")]
    pixels = {"image": image(0)}
    whole = run(halves[0], pixels)["features"]
    assert np.abs(run(adapter, {**pixels, **run(backbone, pixels)})["features"] - whole).max() <= 1e-5


def test_a_graph_that_names_no_taps_is_refused(tmp_path, graph):
    with pytest.raises(BuildError, match="does not say where its backbone ends"):
        cut_at_taps(onnx.shape_inference.infer_shapes(onnx.load(str(graph))))


def test_an_adapter_that_does_not_read_the_picture_is_refused(tmp_path):
    graph = split_model.save_graph(tmp_path / "graph.fp32.onnx", reads_frame=False)
    with pytest.raises(BuildError, match="does not read the picture"):
        write_halves(graph)
    assert not (tmp_path / "adapter.fp32.onnx").exists()


def test_split_without_an_adapter_is_refused():
    with pytest.raises(SpecError, match="--adapter none has none"):
        request_from_arguments(build_parser().parse_args(["--adapter", "none", "--split"]))
