"""Engines inside an export: what lies beside them, what they are proven by, what is said where they cannot run."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path

import jsonschema
import onnx
import pytest

from brixel_edge.commands.export import summary
from brixel_edge.commands.export_engines import TensorRtMaker
from brixel_edge.commands.export_int8 import QDQ_GRAPH, Int8Finish
from brixel_edge.errors import ParityError
from brixel_edge.export.bundle_from_student import Ordered, WeightSources, bundle_from_student
from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.export.graph.fuse import spec_from_student
from brixel_edge.export.judges import RoundingBackend
from brixel_edge.export.workshop import ProofImages
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.bundle import open_bundle
from brixel_edge.model.engine_file import EngineReport, identity_from_name
from brixel_edge.model.receipt import SCHEMA_PATH
from brixel_edge.model.receipt_sections import EngineCost
from brixel_edge.model.spec import ImageSpec, ModelSpec

STAND_INS = Path(__file__).parents[1] / "stand_ins"
CACHE = "timing.10.3.0.sm87.orin.cuda12060.cache"


@pytest.fixture
def lengths(monkeypatch, tmp_path):
    """Builds run in a process whose TensorRT 10.3.0 is acted; gives the bytes of timing cache that each began with."""
    folders = os.pathsep.join(filter(None, [str(STAND_INS / "process"), str(STAND_INS), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", folders)
    record = tmp_path / "calls.jsonl"
    monkeypatch.setenv("BRIXEL_ACTED_WORLD", json.dumps({"release": "10.3.0", "record_path": str(record)}))

    def begun_with():
        calls = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
        return [value for name, value in calls if name == "set_timing_cache"]

    return begun_with


@pytest.fixture
def graph(tmp_path):
    """A small fp32 graph, and the spec of its image."""
    maker = importlib.import_module("small_graphs")
    path = maker.save(maker.vit(), tmp_path / "graph.fp32.onnx")
    (given,), (made,) = (onnx.load(str(path)).graph.input, onnx.load(str(path)).graph.output)
    (_, height, width, _), (_, dim, h, w) = (
        [dim.dim_value for dim in entry.type.tensor_type.shape.dim] for entry in (given, made)
    )
    image = ImageSpec(height=height, width=width, mean=(0.5,) * 3, std=(0.5,) * 3)
    return path, ModelSpec(
        backbone="b", patch_px=16, dim=dim, tap_layers=(0,), adapter="none", image=image, grid=(h, w), licence="none"
    )


def test_a_timing_cache_serves_every_plan_and_the_next_export(lengths, graph, tmp_path):
    path, spec = graph
    maker = TensorRtMaker(kind="trt", spec=spec, settings=EngineSettings())
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):  # two plans of one export work in folders of their own
        folder.mkdir()
        maker.make(path, "fp32", folder)
    stored = (second / CACHE).read_bytes()
    assert lengths() == [0, len(stored)]
    # An export to the same place works in a new directory, and the old one goes away.
    again, staged = TensorRtMaker(kind="trt", spec=spec, settings=EngineSettings(), earlier=second), tmp_path / "stage"
    staged.mkdir()
    again.make(path, "fp32", staged)
    assert lengths()[2:] == [len(stored)]
    assert (staged / CACHE).is_file()
    # What a build has learnt since is not replaced by the older one.
    (staged / CACHE).write_bytes(b"")
    again.caches[CACHE] = b""
    again.make(path, "fp32", staged)
    assert lengths()[3:] == [0]


def test_a_named_folder_of_timing_caches_is_used_and_nothing_is_copied(lengths, graph, tmp_path):
    path, spec = graph
    settings = EngineSettings(timing_cache_dir=tmp_path / "caches")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        TensorRtMaker(kind="trt", spec=spec, settings=settings).make(path, "fp32", tmp_path / name)
        assert not list((tmp_path / name).glob("timing.*"))
    assert lengths() == [0, len((tmp_path / "caches" / CACHE).read_bytes())]


def acted_report(plan, precision, **measured):
    """What a builder of TensorRT-RTX would say."""
    identity = identity_from_name(plan.name)
    assert identity is not None and identity.precision == precision
    return EngineReport(
        identity=identity,
        size_bytes=plan.stat().st_size,
        sha256=sha256_of(plan),
        graph_sha256=sha256_of(plan),
        device_name=None,
        cuda_version=None,
        typing="strong",
        pinned_layers=0,
        optimization_level=3,
        workspace_bytes=None,
        weights_bytes=None,
        activation_bytes=None,
        tensors=(),
        layer_types={},
        hardware_compatibility="none",
        is_version_compatible=False,
        timing_cache=None,
        attempts=(),
        warnings=(),
        **measured,
    )


class ActedMaker:
    """Engines that are copies of their graphs; `runs` says whether this machine can run them."""

    def __init__(self, runs: bool):
        self.runs, self.graphs = runs, []

    def make(self, graph, precision, out):
        self.graphs.append(graph.name)
        plan = out / f"engine.sm86.rtx1.7.1.{precision}.plan"
        shutil.copy(graph, plan)
        return plan, acted_report(plan, precision, build_s=1.5, peak_host_bytes=2)

    def features(self, engine, images):
        return RoundingBackend().features(engine, images) if self.runs else None


@pytest.fixture
def export(tmp_path, mini_student, mini_graph, mini_images):
    """A directory with engines, from graphs that are traced already."""
    spec = spec_from_student(mini_student, 64, 96, "brixel", name="vit_mini_dinov3")
    out = tmp_path / "m.brixel"

    def run(maker, *finish):
        ordered = Ordered(
            engine="trt-rtx",
            precision="fp16",
            engines=maker,
            finish=finish,
            trace=lambda sampler, path: shutil.copy(mini_graph(sampler), path),
        )
        images = ProofImages(names=["a"], pixels=mini_images[:1])
        ranging = ProofImages(names=["c"], pixels=mini_images[2:3])
        sources = WeightSources()
        bundle_from_student(mini_student, spec, out, images=images, ranging=ranging, sources=sources, ordered=ordered)
        receipt = open_bundle(out).receipt
        jsonschema.validate(receipt.to_json(), json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
        return receipt, out

    return run


def test_an_engine_that_cannot_run_here_is_said_to_be_unproven(export):
    receipt, out = export(ActedMaker(runs=False))
    name = "engine.sm86.rtx1.7.1.fp16.plan"
    assert receipt.engines[name].proven is False
    assert "build_s" not in receipt.to_json()["engines"][name]  # all that differs from run to run stands in one place
    assert receipt.measured.engines == {name: EngineCost(build_s=1.5, peak_host_bytes=2)}
    assert name not in receipt.parity
    (line,) = [line for line in summary(receipt, out).splitlines() if name in line]
    assert "NOT PROVEN: this machine cannot run it" in line


def test_an_engine_that_runs_here_must_pass_the_gate(export):
    receipt, out = export(ActedMaker(runs=True))
    name = "engine.sm86.rtx1.7.1.fp16.plan"
    assert receipt.engines[name].proven is True
    assert receipt.parity[name].gate == "fp16"
    assert "NOT PROVEN" not in summary(receipt, out)


def test_int8_for_tensorrt_is_fp16_around_its_integers(export, mini_graph, mini_images, monkeypatch):
    all_integer = importlib.import_module("all_integer")

    def quantised(self, folder, targets):
        assert targets == ("trt",)
        all_integer.write(folder / "graph.fp32.onnx", mini_images[:2], folder / QDQ_GRAPH)
        return {"kind": "static", "int8_nodes": 50, "files": [QDQ_GRAPH]}

    monkeypatch.setattr(Int8Finish, "_static", quantised)
    monkeypatch.setattr(Int8Finish, "_judge", lambda self, stage: None)
    maker = ActedMaker(runs=True)
    finish = Int8Finish(frames=[mini_images[0][0]], seed=0, min_speedup=0, engines=maker)
    receipt, _ = export(maker, finish)
    assert maker.graphs == ["graph.fp16.onnx", QDQ_GRAPH]
    kinds = receipt.precisions[QDQ_GRAPH]
    assert kinds["LayerNormalization"] == {"fp16": 33} == receipt.precisions["graph.fp16.onnx"]["LayerNormalization"]
    assert kinds["GridSample"] == {"fp32": 6}
    assert kinds["QuantizeLinear"].keys() == {"int8"}
    assert receipt.islands[QDQ_GRAPH].level == "measured"
    assert receipt.parity[QDQ_GRAPH].backend == "onnxruntime, every half tensor rounded"
    assert receipt.parity[QDQ_GRAPH].gate == receipt.parity["engine.sm86.rtx1.7.1.int8.plan"].gate == "int8"


def test_a_wrong_engine_is_not_shipped(export, tmp_path):
    class Wrong(ActedMaker):
        def features(self, engine, images):
            return [features[..., ::-1] for features in super().features(engine, images)]

    with pytest.raises(ParityError, match=r"none of 8 plans passed; .*engine\.sm86\.rtx1\.7\.1\.fp32\.plan"):
        export(Wrong(runs=True))
    assert [path.name for path in (tmp_path / "m.brixel").iterdir()] == ["failed.json"]
