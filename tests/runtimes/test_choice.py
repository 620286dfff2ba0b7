"""Which engine runs: the order as a table, and the first of it that runs here and may be believed here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
import tiny_model
from acted_plan import IMAGE, MEAN, spec_of
from receipts import receipt_of

from brixel_edge.errors import BackendMissing, BundleError, ParityError
from brixel_edge.model.bundle import write_receipt
from brixel_edge.model.engine_choice import EngineChoice, engine_choice
from brixel_edge.model.engine_file import read_report
from brixel_edge.model.receipt_sections import EngineRecord, Lowering, Requested
from brixel_edge.proof.proof import proof_from_references, save_proof
from brixel_edge.runtimes import engines as base
from brixel_edge.runtimes import opening
from brixel_edge.runtimes.backends.openvino import OpenVinoRuntime
from brixel_edge.runtimes.backends.ort import OrtRuntime
from brixel_edge.runtimes.choice import (
    Facts,
    engines_in_order,
    measured_here,
    missing_request,
    requested_choice,
)
from brixel_edge.runtimes.engines import Engine, backends_of_graph
from brixel_edge.runtimes.model import open_model

FP32, FP16, BF16 = "graph.fp32.onnx", "graph.fp16.onnx", "graph.bf16.onnx"
QDQ, ORT_INT8 = "graph.int8.onnx", "graph.int8.ort.onnx"
PLAN, INT8_PLAN = "engine.sm87.10.3.0.fp16.plan", "engine.sm87.10.3.0.int8.plan"
X86, ARM = ("openvino", "ort"), ("ort", "openvino")
ALL = {"ort", "openvino", "trt"}


def facts(requested, files, *, installed=ALL, preferred=X86, **changes):
    engines = [
        Engine(path=Path(name), backend=backend, size=(32, 48))
        for name in files
        for backend in (("trt",) if name.endswith(".plan") else backends_of_graph(name))
    ]
    return Facts(
        requested=tuple(map(engine_choice, requested.split())),
        engines=engines,
        installed=frozenset(installed),
        preferred=preferred,
        **changes,
    )


TIMES = {"graph.fp32.onnx, ort": 40.0, "graph.fp32.onnx, openvino": 30.0, "graph.int8.ort.onnx, ort": 15.0}
KNOWN = {"p50_ms": TIMES, "proven": frozenset({FP32, QDQ, ORT_INT8})}


@pytest.mark.parametrize(
    ("given", "order"),
    [
        # What was exported comes first; in it the preferred backend of the architecture.
        (facts("onnx", [FP32]), f"{FP32} openvino, {FP32} ort"),
        (facts("onnx", [FP32], preferred=ARM), f"{FP32} ort, {FP32} openvino"),
        (facts("onnx", [FP32], installed={"ort"}), f"{FP32} ort"),
        (
            facts("onnx-int8", [FP32, QDQ, ORT_INT8]),
            f"{QDQ} openvino, {ORT_INT8} ort, {FP32} openvino, {FP32} ort",
        ),
        (
            facts("onnx-int8", [FP32, QDQ, ORT_INT8], preferred=ARM),
            f"{ORT_INT8} ort, {QDQ} openvino, {FP32} ort, {FP32} openvino",
        ),
        (facts("onnx-fp16", [FP32, FP16], installed={"ort"}), f"{FP16} ort, {FP32} ort"),
        (facts("onnx-bf16", [FP32, BF16], installed={"ort"}), f"{FP32} ort"),
        # Among what was asked for, the faster on this processor.
        (
            facts("onnx-int8", [FP32, QDQ, ORT_INT8], **KNOWN),
            f"{ORT_INT8} ort, {QDQ} openvino, {FP32} openvino, {FP32} ort",
        ),
        # Then own plans, then what is known to be fast here, float or INT8, then the rest.
        (
            facts("trt-fp16", [FP32, FP16, PLAN], installed={"ort", "openvino"}),
            f"{FP32} openvino, {FP32} ort, {FP16} openvino, {FP16} ort",
        ),
        (
            facts("trt-int8", [FP32, ORT_INT8, FP16, PLAN, INT8_PLAN], installed={"trt", "ort"}, **KNOWN),
            f"{INT8_PLAN} trt, {PLAN} trt, {ORT_INT8} ort, {FP32} ort, {FP16} ort",
        ),
        (
            facts("onnx-bf16", [FP32, BF16, ORT_INT8, INT8_PLAN, PLAN], installed={"trt", "ort"}),
            f"{PLAN} trt, {INT8_PLAN} trt, {FP32} ort, {ORT_INT8} ort",
        ),
        # Measured, but not proven at the export: known to be fast is not enough.
        (
            facts("trt-fp16", [FP32, ORT_INT8], installed={"ort"}, p50_ms=TIMES, proven=frozenset({FP32})),
            f"{FP32} ort, {ORT_INT8} ort",
        ),
        # Several that were asked for: a board's own plan, then as they were asked for.
        (facts("onnx trt-fp16", [FP32, PLAN]), f"{PLAN} trt, {FP32} openvino, {FP32} ort"),
        (facts("onnx-int8 onnx", [FP32, ORT_INT8], installed={"ort"}), f"{ORT_INT8} ort, {FP32} ort"),
        (facts("onnx onnx-int8", [FP32, ORT_INT8], installed={"ort"}), f"{FP32} ort, {ORT_INT8} ort"),
        # The user overrules.
        (facts("onnx-int8", [FP32, QDQ, ORT_INT8], backend="ort"), f"{ORT_INT8} ort, {FP32} ort"),
        (facts("onnx-int8", [FP32, QDQ, ORT_INT8], precision="fp32"), f"{FP32} openvino, {FP32} ort"),
        (facts("onnx-int8", [FP32, QDQ, ORT_INT8], backend="ort", precision="int8"), f"{ORT_INT8} ort"),
        (facts("onnx", [FP32, PLAN], backend="trt"), f"{PLAN} trt"),
        (facts("onnx", [FP32], precision="int8"), ""),
    ],
)
def test_the_order_in_which_engines_are_tried(given, order):
    assert ", ".join(f"{engine.path.name} {engine.backend}" for engine in engines_in_order(given)) == order


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (facts("onnx", [FP32]), None),
        (facts("onnx-bf16", [FP32, BF16], installed={"ort"}), "openvino is not installed here"),
        (facts("trt-fp16", [FP32, FP16, PLAN], installed={"ort"}), "trt is not installed here"),
        (facts("trt-fp16", [FP32, FP16]), "the directory has none"),
        (facts("onnx trt-fp16", [FP32, PLAN], installed={"ort"}), None),
        (facts("trt-fp16", [FP32, FP16, PLAN], installed={"ort"}, backend="ort"), None),
        (facts("trt-fp16", [FP32, FP16, PLAN], installed={"ort"}, precision="fp32"), None),
    ],
)
def test_why_what_was_exported_cannot_be_tried(given, reason):
    assert missing_request(given) == reason


def test_what_was_made_in_another_precision_is_what_was_exported():
    def requested(engine, precision, made):
        lowering = Lowering(precision=made, sampler="gather", islands=None)
        return Requested(
            engine=engine, precision=precision, samplers=("gather",), made=lowering, is_first_choice=precision == made
        )

    assert requested_choice(requested("trt-fp16", "fp16", "fp16")) == engine_choice("trt-fp16")
    assert requested_choice(requested("trt-fp16", "fp16", "bf16")) == engine_choice("trt-bf16")
    assert requested_choice(requested("trt-rtx", "fp16", "bf16")) == EngineChoice(kind="trt-rtx", precision="bf16")
    assert requested_choice(requested("onnx-int8", "fp32", "fp32")) == engine_choice("onnx-int8")
    assert requested_choice(requested("trt-int8", "fp16", "bf16")) == engine_choice("trt-int8")


def test_measurements_of_another_processor_do_not_count(tmp_path):
    from brixel_edge.model.bundle import open_bundle

    root = tiny_bundle.save(tmp_path / "m.brixel", measured=tiny_bundle.measured("Cortex-A72", {"a": 1.0}))
    receipt = open_bundle(root).receipt
    assert measured_here(receipt, "Cortex-A72") == {"a": 1.0}
    assert measured_here(receipt, "Xeon") == {}
    assert measured_here(receipt, None) == {}
    unknown = dataclasses.replace(receipt, measured=tiny_bundle.measured(None, {"a": 1.0}))
    assert measured_here(unknown, None) == {}


@pytest.fixture
def on_x86(monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(base, "preferred_backends", lambda: X86)
    monkeypatch.setattr(opening, "preferred_backends", lambda: X86)


INT8 = (FP32, QDQ, ORT_INT8)
FRAME = tiny_bundle.photograph(7)[0]


def is_right(model) -> bool:
    return np.allclose(model(FRAME).values[..., :3], tiny_model.cell_means(FRAME.astype(float)), atol=0.05)


def test_what_was_exported_is_what_runs(tmp_path, on_x86, warnings):
    root = tiny_bundle.save(tmp_path / "m.brixel", INT8, "onnx-int8")
    with open_model(root) as model:
        assert (model.path, model.precision, model.backend) == (root / QDQ, "int8", "openvino")
        assert model.proof.startswith("proven here at this first load (cosine mean 1.00000 on 3 photographs")
        assert model.passed_over == ()
        assert is_right(model)
    with open_model(root, backend="ort") as model:
        assert (model.path.name, model.precision, model.backend) == (ORT_INT8, "int8", "ort")
    with open_model(root, precision="fp32") as model:
        assert model.engine == "graph.fp32.onnx (fp32) on openvino"
    with open_model(root, backend="ort", precision="fp32") as model:
        assert model.engine == "graph.fp32.onnx (fp32) on ort"
    assert warnings.text == ""


def spoil(monkeypatch, runtime, name):
    """As on a Cortex-A72: this backend has other kernels for this file, which give other features without an error."""
    right = runtime.infer
    loaded = runtime.__init__

    def load(self, path, settings):
        loaded(self, path, settings)
        self.is_wrong = path.name == name

    def infer(self, image):
        outputs = right(self, image)
        if self.is_wrong:
            outputs["features"] = np.roll(outputs["features"], 1, axis=1)
        return outputs

    monkeypatch.setattr(runtime, "__init__", load)
    monkeypatch.setattr(runtime, "infer", infer)


def test_an_engine_that_is_wrong_on_this_device_is_passed_over_in_one_line(tmp_path, on_x86, monkeypatch, warnings):
    """Q/DQ in OpenVINO on an emulated Cortex-A72 has a cosine of 0.8356; ONNX Runtime's own form 0.9999."""
    root = tiny_bundle.save(tmp_path / "m.brixel", INT8, "onnx-int8")
    spoil(monkeypatch, OpenVinoRuntime, QDQ)
    for _ in range(2):
        warnings.clear()
        with open_model(root) as model:
            assert model.engine == "graph.int8.ort.onnx (int8) on ort"
            assert is_right(model)
            [reason] = model.passed_over
        assert reason.startswith("graph.int8.onnx, openvino is not taken: graph.int8.onnx computes something else on")
        [line] = [record.getMessage() for record in warnings.records]
        assert line == f"m.brixel: {reason}; graph.int8.ort.onnx, ort runs instead"
        assert "\n" not in line
    with pytest.raises(ParityError, match=r"graph\.int8\.onnx computes something else on OpenVINO .*int8 gate"):
        open_model(root, backend="openvino", precision="int8")


def test_where_every_engine_is_wrong_nothing_is_opened(tmp_path, on_x86, monkeypatch):
    root = tiny_bundle.save(tmp_path / "m.brixel")
    spoil(monkeypatch, OpenVinoRuntime, FP32)
    spoil(monkeypatch, OrtRuntime, FP32)
    with pytest.raises(ParityError, match=r"on OpenVINO .*Nor does another engine of it: .*, ort is not taken"):
        open_model(root)


def test_a_plan_for_another_device_is_passed_over(tmp_path, on_x86, monkeypatch, warnings):
    """A board's directory opened elsewhere: TensorRT is missing, and that is said."""
    root = tiny_bundle.save(tmp_path / "m.brixel", (FP32,), "trt-fp16")
    (root / PLAN).write_bytes(b"plan")
    record = json.loads((root / "model.json").read_text())
    from brixel_edge.machine.files import sha256_of

    record["files"][PLAN] = {"sha256": sha256_of(root / PLAN), "bytes": 4}
    record["requested"] |= {"precision": "fp16", "made": record["requested"]["made"] | {"precision": "fp16"}}
    (root / "model.json").write_text(json.dumps(record))
    for module in (opening, base):  # a machine with TensorRT-RTX has the backend too
        monkeypatch.setattr(module, "has_backend", lambda name: name != "trt")
    with open_model(root) as model:
        assert model.engine == "graph.fp32.onnx (fp32) on openvino"
    assert "m.brixel: trt-fp16, which it was exported for, is not taken: trt is not installed here; " in warnings.text
    with pytest.raises(BackendMissing, match="backend 'trt' needs"):
        open_model(root, backend="trt")
    # With a TensorRT that refuses the plan, the reason is its own.
    monkeypatch.setattr(opening, "has_backend", lambda name: True)
    monkeypatch.setattr(base, "has_backend", lambda name: True)
    warnings.clear()
    open_model(root).close()
    assert "engine.sm87.10.3.0.fp16.plan, trt is not taken: " in warnings.text


def test_a_changed_file_is_refused_and_not_passed_over(tmp_path, on_x86):
    root = tiny_bundle.save(tmp_path / "m.brixel", INT8, "onnx-int8")
    with (root / QDQ).open("ab") as stream:
        stream.write(b"\x00")
    with pytest.raises(BundleError, match=r"graph\.int8\.onnx differs from the file that was exported"):
        open_model(root)


@pytest.mark.parametrize("arguments", [{}, {"backend": "ort"}, {"precision": "fp32"}])
def test_an_edited_receipt_is_refused_whatever_is_asked_for(tmp_path, arguments):
    root = tiny_bundle.save(tmp_path / "m.brixel")
    record = json.loads((root / "model.json").read_text())
    record["spec"]["image"]["channels"] = "RGB"
    (root / "model.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match=r"model\.json says image\.channels RGB, graph\.fp32\.onnx says BGR"):
        open_model(root, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"precision": "int8"},
            r"has no int8 graph that runs here; it has graph\.fp32\.onnx, or export with .* onnx-int8",
        ),
        ({"precision": "fp16", "backend": "ort"}, r"has no fp16 graph for ort; it has graph\.fp32\.onnx"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, arguments, message):
    root = tiny_bundle.save(tmp_path / "m.brixel")
    with pytest.raises(BundleError, match=message):
        open_model(root, **arguments)


def test_a_bare_graph_says_what_it_is_and_that_nothing_proves_it(graph):
    with open_model(graph, backend="ort") as model:
        assert (model.precision, model.proof) == ("fp32", "not proven here: no proof lies beside it")
    with pytest.raises(BundleError, match=r"tiny\.onnx is fp32, not int8; leave --precision out"):
        open_model(graph, precision="int8")


@pytest.mark.parametrize("requested", ["trt-fp32", "onnx-bf16"])
def test_a_board_s_own_plan_runs(acted, plan_in, monkeypatch, requested, warnings):
    """As what was exported, and before every graph where that cannot be tried; proven here, once."""
    acted("10.3.0", gpu="Orin")
    monkeypatch.setattr(opening, "has_backend", lambda name: True)
    monkeypatch.setattr(base, "has_backend", lambda name: True)
    plan = plan_in()
    right = np.full((1, 16, 4, 6), MEAN + 1, np.float32)
    save_proof(proof_from_references(["a"], [IMAGE], [right]), plan.with_name("proof.npz"))
    record = EngineRecord(backend="trt", graph="graph.fp16.onnx", report=read_report(plan), proven=False)
    receipt = receipt_of(spec_of(), engines={plan.name: record})
    asked = dataclasses.replace(receipt.requested, engine=requested)
    if requested == "onnx-bf16":
        asked = dataclasses.replace(asked, precision="bf16", made=dataclasses.replace(asked.made, precision="bf16"))
    write_receipt(plan.parent, dataclasses.replace(receipt, requested=asked))
    for kind in ("at this first load", "at an earlier load"):
        with open_model(plan.parent) as model:
            assert (model.path, model.backend, model.precision) == (plan, "trt", "fp32")
            assert model.proof == f"proven here {kind} (cosine mean 1.00000 on 1 photograph)"
    assert ("onnx-bf16, which it was exported for, is not taken" in warnings.text) == (requested == "onnx-bf16")
