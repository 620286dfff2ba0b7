"""Engines inside an export: what lies beside them, what they are proven by, what is said where they cannot run."""

from __future__ import annotations

import importlib
import json
import shutil

import jsonschema
import pytest
from acted_plan import spec_of

from brixel_edge.commands import export_steps
from brixel_edge.commands.export import summary
from brixel_edge.commands.export_engines import TensorRtBuilder
from brixel_edge.commands.export_job import Job
from brixel_edge.commands.export_steps import export_directory
from brixel_edge.errors import ParityError
from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.export.facts import Photographs
from brixel_edge.export.graph.fuse import spec_from_student
from brixel_edge.export.judges import RoundingJudge
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.bundle import TRT_INT8_NAME, open_bundle
from brixel_edge.model.engine_choice import engine_choices
from brixel_edge.model.engine_file import EngineReport, identity_from_name
from brixel_edge.model.receipt import SCHEMA_PATH
from brixel_edge.model.receipt_sections import EngineCost, Int8, Int8Cost

QDQ_GRAPH = TRT_INT8_NAME


@pytest.fixture
def lengths(acted_process):
    """Builds run in a process whose TensorRT 10.3.0 is acted; gives the bytes of timing cache that each began with."""
    calls = acted_process("10.3.0")
    return lambda: [value for name, value in calls() if name == "set_timing_cache"]


def test_a_timing_cache_serves_every_plan_and_the_next_export(lengths, graphs, tmp_path):
    path, spec = graphs("vit"), spec_of()
    builder = TensorRtBuilder(kind="trt", spec=spec, settings=EngineSettings())
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):  # two plans of one export work in folders of their own
        folder.mkdir()
        builder.build(path, "fp32", folder)
    (cache,) = [path.name for path in second.glob("timing.10.3.0.sm87.orin.*.cache")]
    stored = (second / cache).read_bytes()
    assert lengths() == [0, len(stored)]
    # An export to the same place works in a new directory, and the old one goes away.
    again, staged = (
        TensorRtBuilder(kind="trt", spec=spec, settings=EngineSettings(), earlier=second),
        tmp_path / "stage",
    )
    staged.mkdir()
    again.build(path, "fp32", staged)
    assert lengths()[2:] == [len(stored)]
    assert (staged / cache).is_file()
    # What a build has learnt since is not replaced by the older one.
    (staged / cache).write_bytes(b"")
    again.caches[cache] = b""
    again.build(path, "fp32", staged)
    assert lengths()[3:] == [0]


def test_a_named_folder_of_timing_caches_is_used_and_nothing_is_copied(lengths, graphs, tmp_path):
    path, spec = graphs("vit"), spec_of()
    settings = EngineSettings(timing_cache_dir=tmp_path / "caches")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        TensorRtBuilder(kind="trt", spec=spec, settings=settings).build(path, "fp32", tmp_path / name)
        assert not list((tmp_path / name).glob("timing.*"))
    (cache,) = (tmp_path / "caches").glob("timing.10.3.0.sm87.orin.*.cache")
    assert lengths() == [0, len(cache.read_bytes())]


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


class ActedBuilder:
    """A builder whose engines are copies of their graphs; `runs` says whether this machine can run them."""

    def __init__(self, runs: bool):
        self.runs, self.graphs = runs, []

    def build(self, graph, precision, out, typing="auto"):
        self.graphs.append(graph.name)
        plan = out / f"engine.sm86.rtx1.7.1.{precision}.plan"
        shutil.copy(graph, plan)
        return plan, acted_report(plan, precision, build_s=1.5, peak_host_bytes=2)

    def outputs(self, engine, images):
        return RoundingJudge().outputs(engine, images) if self.runs else None


@pytest.fixture
def export(tmp_path, mini_student, mini_graph, mini_images):
    """A directory with engines, from graphs that are traced already."""
    spec = spec_from_student(mini_student, 64, 96, "brixel", name="vit_mini_dinov3")
    out = tmp_path / "m.brixel"

    def run(builder, engine="trt-rtx", **parts):
        job = Job(
            out=out,
            student=mini_student,
            spec=spec,
            engines=engine_choices(engine),
            photographs=Photographs(names=["a"], pixels=mini_images[:1]),
            ranging=Photographs(names=["c"], pixels=mini_images[2:3]),
            builder=builder,
            trace=lambda sampler, path: shutil.copy(mini_graph(sampler), path),
            **parts,
        )
        export_directory(job)
        receipt = open_bundle(out).receipt
        jsonschema.validate(receipt.to_json(), json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
        return receipt, out

    return run


def test_an_engine_that_cannot_run_here_is_said_to_be_unproven(export):
    receipt, out = export(ActedBuilder(runs=False))
    name = "engine.sm86.rtx1.7.1.fp16.plan"
    assert receipt.engines[name].proven is False
    assert "build_s" not in receipt.to_json()["engines"][name]  # all that differs from run to run stands in one place
    assert receipt.measured.engines == {name: EngineCost(build_s=1.5, peak_host_bytes=2)}
    assert name not in receipt.parity
    (line,) = [line for line in summary(receipt, out).splitlines() if name in line]
    assert "NOT PROVEN: this machine cannot run it" in line


def test_an_engine_that_runs_here_must_pass_the_gate(export):
    receipt, out = export(ActedBuilder(runs=True))
    name = "engine.sm86.rtx1.7.1.fp16.plan"
    assert receipt.engines[name].proven is True
    assert receipt.parity[name].gate == "fp16"
    assert "NOT PROVEN" not in summary(receipt, out)


def test_int8_for_tensorrt_is_fp16_around_its_integers(export, mini_graph, mini_images, monkeypatch):
    all_integer = importlib.import_module("all_integer")

    class AllInteger:
        def __init__(self, folder, frames, targets, seed, *, cache):
            assert targets == ("trt",)
            self.folder = folder

        def write_next(self, refusal=""):
            assert not refusal
            all_integer.write(self.folder / "graph.fp32.onnx", mini_images[:2], self.folder / QDQ_GRAPH)

        def finish(self):
            return Int8(kind="static", int8_nodes=50, files=(QDQ_GRAPH,)), Int8Cost()

    monkeypatch.setattr(export_steps, "StaticPlans", AllInteger)
    monkeypatch.setattr(export_steps, "int8_speed", lambda *arguments, **options: None)
    builder = ActedBuilder(runs=True)
    receipt, _ = export(builder, "trt-int8", frames=[mini_images[0][0]])
    assert builder.graphs == ["graph.fp16.onnx", QDQ_GRAPH]
    kinds = receipt.precisions[QDQ_GRAPH]
    assert kinds["LayerNormalization"] == {"fp16": 33} == receipt.precisions["graph.fp16.onnx"]["LayerNormalization"]
    assert kinds["GridSample"] == {"fp32": 6}
    assert kinds["QuantizeLinear"].keys() == {"int8"}
    assert receipt.islands[QDQ_GRAPH].level == "measured"
    assert receipt.parity[QDQ_GRAPH].backend == "onnxruntime, every half tensor rounded"
    assert receipt.parity[QDQ_GRAPH].gate == receipt.parity["engine.sm86.rtx1.7.1.int8.plan"].gate == "int8"


def test_a_list_of_engines_is_one_directory_with_a_receipt_of_each(export):
    receipt, out = export(ActedBuilder(runs=True), "trt-rtx,onnx-bf16,onnx")
    assert {"graph.fp32.onnx", "graph.fp16.onnx", "graph.bf16.onnx"} <= set(receipt.files)
    asked = [receipt.requested, *(receipt.also_requested or ())]
    made = [("trt-rtx", "fp16"), ("onnx-bf16", "bf16"), ("onnx", "fp32")]
    assert [(entry.engine, entry.made.precision) for entry in asked] == made
    assert [(attempt.engine, attempt.precision) for attempt in receipt.attempts] == made
    assert set(receipt.parity) == {name for name in receipt.files if name.endswith((".onnx", ".plan"))}
    for name in receipt.files:
        open_bundle(out).file(name)


def test_a_wrong_engine_is_not_shipped(export, tmp_path):
    class Wrong(ActedBuilder):
        def outputs(self, engine, images):
            return [{"features": maps["features"][..., ::-1]} for maps in super().outputs(engine, images)]

    with pytest.raises(ParityError, match=r"none of 8 plans passed; .*engine\.sm86\.rtx1\.7\.1\.fp32\.plan"):
        export(Wrong(runs=True))
    assert [path.name for path in (tmp_path / "m.brixel").iterdir()] == ["failed.json"]
