"""The backbone on every N-th frame: what is computed when, by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import split_model
from onnx import helper

from brixel_edge.commands import run
from brixel_edge.errors import BundleError, ParityError, SpecError
from brixel_edge.runtimes.backends.halves import open_half
from brixel_edge.runtimes.economy import EconomicRuntime
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.runtime import RuntimeSettings
from brixel_edge.runtimes.stream.feature_stream import stream


def frame(number: int) -> np.ndarray:
    return np.random.default_rng(100 + number).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture
def directory(tmp_path):
    return split_model.save(tmp_path / "split.brixel")


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_backbone_sees_every_nth_frame_and_the_adapter_each(directory, every):
    with open_model(directory, "ort", backbone_every=every) as model:
        model.warm_up()
        for number in range(7):
            expected = (split_model.cells(frame(number - number % every)) + split_model.cells(frame(number))) / 2
            assert model(frame(number)).values == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_with_the_backbone_on_every_frame_both_halves_are_the_one_graph(directory, backend):
    with open_model(directory, backend) as whole, open_model(directory, backend, backbone_every=1) as halves:
        assert halves.path.name == "adapter.fp32.onnx" and halves.backend == backend
        for number in range(3):
            assert np.array_equal(whole(frame(number)).values, halves(frame(number)).values)


def test_a_stream_runs_the_backbone_on_every_nth_frame(directory):
    frames = [frame(number) for number in range(5)]
    maps = list(stream(directory, frames, backend="ort", backbone_every=2))
    for number, features in enumerate(maps):
        expected = (split_model.cells(frame(number - number % 2)) + split_model.cells(frame(number))) / 2
        assert features.values == pytest.approx(expected, abs=1e-3)
    assert len(maps) == 5
    with pytest.raises(SpecError, match="must be of the same source; give one source instead of 2"):
        stream(directory, ["demo:", "test:pattern"], backbone_every=2)


def test_maps_in_bfloat16_go_from_half_to_half(tmp_path):
    """Of numbers that bfloat16 holds: twice the picture, then the picture again."""
    pytest.importorskip("openvino")
    types, shape = onnx.TensorProto, [1, 2, 3, 3]
    image = helper.make_tensor_value_info("image", types.UINT8, shape)
    tap = helper.make_tensor_value_info("tap.0", types.BFLOAT16, shape)
    features = helper.make_tensor_value_info("features", types.FLOAT, shape)
    cast = helper.make_node("Cast", ["image"], ["pixels"], to=types.BFLOAT16)
    doubled = helper.make_node("Add", ["pixels", "pixels"], ["tap.0"])
    less = helper.make_node("Sub", ["tap.0", "pixels"], ["rest"])
    out = helper.make_node("Cast", ["rest"], ["features"], to=types.FLOAT)
    halves = []
    for name, nodes, inputs, output in (
        ("backbone", [cast, doubled], [image], tap), ("adapter", [cast, less, out], [image, tap], features),
    ):  # fmt: skip
        graph = helper.make_graph(nodes, name, inputs, [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, str(tmp_path / f"{name}.bf16.onnx"))
        halves.append(open_half(tmp_path / f"{name}.bf16.onnx", "openvino", RuntimeSettings(threads=1))[0])
    given = np.arange(18, dtype=np.uint8).reshape(shape)
    runtime = EconomicRuntime(*halves, every=2)
    assert (runtime.infer(given)["features"] == given).all()
    assert (runtime.infer(given + np.uint8(1))["features"] == given.astype(np.float32) - 1).all()  # of old maps
    runtime.close()


def test_after_a_gap_the_backbone_runs_anew(directory):
    with open_model(directory, "ort", backbone_every=5) as model:
        for number, is_after_gap in ((0, False), (1, False), (2, True), (3, False)):
            fitted = model.prepare(frame(number))
            values = model.features(fitted, t_capture_s=0.0, is_after_gap=is_after_gap).values
            last = 0 if number < 2 else 2
            expected = (split_model.cells(frame(last)) + split_model.cells(frame(number))) / 2
            assert values == pytest.approx(expected, abs=1e-3)


def test_runs_of_the_backbone_are_saved():
    runs = {"backbone": 0, "adapter": 0}

    def half(name):
        def run(given):
            runs[name] += 1
            return {"tap.0": given["image"]} if name == "backbone" else {"features": given["tap.0"]}

        return run

    runtime = EconomicRuntime(half("backbone"), half("adapter"), every=4)
    for _ in range(9):
        runtime.infer(np.zeros((1, 1, 1, 3), np.uint8))
    assert runs == {"backbone": 3, "adapter": 9}
    runtime.close()
    runtime.close()
    with pytest.raises(SpecError, match="is closed"):
        runtime.infer(np.zeros((1, 1, 1, 3), np.uint8))


def test_a_wrong_half_is_refused_at_its_first_load(directory, monkeypatch):
    monkeypatch.setattr("brixel_edge.runtimes.economy.open_half", shifted_half)
    with pytest.raises(ParityError, match="computes something else"):
        open_model(directory, "ort", backbone_every=2)


def shifted_half(path, backend, settings):
    half, place = open_half(path, backend, settings)
    return lambda given: {name: np.roll(values, 3, axis=-1) for name, values in half(given).items()}, place


def test_a_pass_is_noted_for_both_halves_together(directory):
    with open_model(directory, "ort", backbone_every=2) as model:
        assert model.proof.startswith("proven here at this first load")
    with open_model(directory, "ort", backbone_every=3) as model:
        assert model.proof.startswith("proven here at an earlier load")


def test_a_changed_half_is_refused(directory):
    (directory / "backbone.fp32.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError, match="differs from the file that was exported"):
        open_model(directory, backbone_every=2)


def test_halves_are_no_engines_of_their_own(directory):
    from brixel_edge.model.bundle import open_bundle
    from brixel_edge.runtimes.opening import facts_of_directory

    names = {engine.path.name for engine in facts_of_directory(open_bundle(directory), "auto", None).engines}
    assert names == {"graph.fp32.onnx"}


def test_what_cannot_be_is_refused_in_one_line(tmp_path, directory):
    bare = split_model.save(tmp_path / "whole.brixel", has_halves=False)
    none = split_model.save(tmp_path / "none.brixel", adapter="none")
    for path, options, message in (
        (None, {"backbone_every": 2}, "the built-in model is one graph"),
        (bare, {"backbone_every": 2}, "has no halves that run here; export it again with --split"),
        (none, {"backbone_every": 2}, "has no adapter that reads the frame"),
        (directory, {"backbone_every": 0}, "backbone_every 0 is not at least 1"),
        (directory, {"backbone_every": 2, "backend": "trt"}, "for ort and openvino, not for trt"),
        (directory, {"backbone_every": 2, "precision": "int8"}, "has no halves that run here"),
    ):
        with pytest.raises((SpecError, BundleError), match=message) as caught:
            open_model(path, **options)
        assert "\n" not in str(caught.value)


def test_a_run_says_what_it_runs_and_several_sources_are_refused(directory, capsys):
    options = ["--headless", "--backend", "ort", "--backbone-every", "2", "--frames", "4"]
    assert run.main([str(directory), "--source", "test:pattern", *options]) == 0
    assert "adapter.fp32.onnx (fp32) on ort" in capsys.readouterr().err
    assert run.main([str(directory), "--source", "test:pattern", "--source", "demo:", *options]) == 2
    assert "must be of the same source" in capsys.readouterr().err
