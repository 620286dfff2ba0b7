"""Faults planted in what runs the graphs: each is caught, those that have a remedy are healed."""

import json
import shutil

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from brixel_edge.commands.export_job import Job
from brixel_edge.commands.export_steps import export_directory
from brixel_edge.errors import BuildError, ParityError
from brixel_edge.export.facts import Photographs
from brixel_edge.export.graph.fuse import spec_from_student
from brixel_edge.export.half.to_half import half_from_float
from brixel_edge.export.judges import OrtJudge, RoundingJudge, default_judges
from brixel_edge.model.bundle import open_bundle
from brixel_edge.model.engine_choice import EngineChoice
from brixel_edge.model.receipt import SCHEMA_PATH


@pytest.fixture
def export(tmp_path, mini_student, mini_graph, mini_images, monkeypatch):
    """A directory from graphs that are traced already; gives (receipt or failure, files at out)."""
    spec = spec_from_student(mini_student, 64, 96, "brixel", name="vit_mini_dinov3")
    out = tmp_path / "m.brixel"

    def run(precision: str, judges=default_judges, plant=None):
        def trace(sampler, path):
            shutil.copy(mini_graph(sampler), path)
            if plant is not None:
                plant(path)

        job = Job(
            out=out,
            student=mini_student,
            spec=spec,
            engines=(EngineChoice(kind="onnx", precision=precision),),
            photographs=Photographs(names=["a"], pixels=mini_images[:1]),
            ranging=Photographs(names=["c"], pixels=mini_images[2:3]),
            judges=judges,
            trace=trace,
        )
        export_directory(job)
        return open_bundle(out)

    run.out = out
    return run


class Broken:
    """A judge that spoils the graph before, or the features after, the real one runs it."""

    name = "broken"

    def __init__(self, real, graph=lambda model: model, image=lambda x: x, features=lambda y: y):
        self.real, self.graph, self.image, self.after = real, graph, image, features

    def outputs(self, graph, images):
        spoilt = graph.with_name(f"spoilt.{graph.name}")
        onnx.save(self.graph(onnx.load(str(graph))), str(spoilt))
        results = self.real.outputs(spoilt, [np.ascontiguousarray(self.image(image)) for image in images])
        spoilt.unlink()
        return [{name: self.after(values) for name, values in result.items()} for result in results]


def broken_judges(**faults):
    """Every judge of every precision broken alike."""
    return lambda precision: tuple(Broken(real, **faults) for real in default_judges(precision)[:1])


def nearest(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnx-tensorrt made of GridSample's mode in some releases (NVIDIA/TensorRT #4646)."""
    for node in model.graph.node:
        if node.op_type == "GridSample":
            kept = [attribute for attribute in node.attribute if attribute.name != "mode"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("mode", "nearest")])
    return model


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_corrupt_gridsample_is_healed_by_gathering(export, precision):
    bundle = export(precision, broken_judges(graph=nearest))
    receipt = bundle.receipt
    assert [(a.sampler, a.passed) for a in receipt.attempts] == [("gridsample", False), ("gather", True)]
    assert "graph.fp32.onnx (broken) differs from PyTorch: cosine mean" in receipt.attempts[0].error
    assert receipt.attempts[0].parity["graph.fp32.onnx"].cosine_mean < 0.9999
    assert set(receipt.samplers.values()) == {"gather"}
    assert receipt.requested.is_first_choice is False
    graph = onnx.load(str(bundle.file(f"graph.{precision}.onnx")))
    assert "GridSample" not in {node.op_type for node in graph.graph.node}


class IgnoresIslands:
    """A builder that computes the whole graph in fp16, islands or not, as weak typing may."""

    name = "ignores islands"

    def outputs(self, graph, images):
        source = onnx.shape_inference.infer_shapes(onnx.load(str(graph.with_name("graph.fp32.onnx"))))
        blanket = graph.with_name("blanket.onnx")
        onnx.save(half_from_float(source, "fp16", []), str(blanket))
        return RoundingJudge().outputs(blanket, images)


def scale_residual(path) -> None:
    """The same function with a residual stream of about 1e5: what enters it is scaled, and norms take it back."""
    model = onnx.load(str(path))
    makers = {name for node in model.graph.node for name in node.output}
    embedded = next(node for node in model.graph.node if node.op_type == "Concat")
    for entry in model.graph.initializer:
        if entry.name in set(embedded.input) - makers or "patch_embed" in entry.name or "gamma" in entry.name:
            values = numpy_helper.to_array(entry) * np.float32(3e4)
            entry.CopyFrom(numpy_helper.from_array(values, entry.name))
    onnx.save(model, str(path))


def test_planted_outliers_pass_in_fp16_at_the_first_try_by_their_islands(export):
    receipt = export("fp16", plant=scale_residual).receipt
    assert [attempt.passed for attempt in receipt.attempts] == [True]
    reasons = receipt.islands["graph.fp16.onnx"].reasons
    (large,) = [nodes for reason, nodes in reasons.items() if reason.startswith("range: magnitudes")]
    assert max(large.values()) > 65504
    assert any(name.startswith("LayerNormalization ") for name in large)
    parity = receipt.parity["graph.fp16.onnx"]
    assert parity.backend == "onnxruntime, every half tensor rounded"
    assert [other.backend for other in parity.also] == ["onnxruntime"]


def test_an_overflow_of_fp16_is_healed_by_bf16(export):
    def judges(precision):
        return (IgnoresIslands(),) if precision == "fp16" else default_judges(precision)

    bundle = export("fp16", judges, plant=scale_residual)
    receipt = bundle.receipt
    tried = [(a.precision, a.islands, a.sampler, a.passed) for a in receipt.attempts]
    assert tried == [
        ("fp16", "measured", "gridsample", False),
        ("fp16", "measured", "gather", False),
        ("fp16", "wide", "gridsample", False),
        ("fp16", "wide", "gather", False),
        ("bf16", "measured", "gather", True),
    ]
    assert "NaN or Inf" in receipt.attempts[0].error
    assert receipt.attempts[0].parity["graph.fp16.onnx"].cosine_mean is None  # JSON has no NaN
    jsonschema.validate(receipt.to_json(), json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
    assert bundle.precisions == ["bf16", "fp32"]
    assert receipt.requested.precision == "fp16"
    assert receipt.requested.made.precision == "bf16"


FAULTS = {
    "swapped channels": {"image": lambda image: image[..., ::-1]},
    "wrong mean": {"image": lambda image: np.clip(image.astype(int) + 12, 0, 255).astype(np.uint8)},
    "transposed grid": {"features": lambda y: y.transpose(0, 1, 3, 2).reshape(y.shape)},
    "one token shifted": {"features": lambda y: np.roll(y, 4, axis=3)},
    "one cell shifted": {"features": lambda y: np.roll(y, 1, axis=3)},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_no_plan_heals_is_exit_5_and_leaves_the_report_alone(export, fault):
    with pytest.raises(
        ParityError, match=r"none of 2 plans passed; the last, fp32, gather: graph\.fp32\.onnx"
    ) as caught:
        export("fp32", broken_judges(**FAULTS[fault]))
    assert caught.value.exit_code == 5
    assert [path.name for path in export.out.parent.iterdir()] == ["m.brixel"]
    assert [path.name for path in export.out.iterdir()] == ["failed.json"]
    report = json.loads((export.out / "failed.json").read_text())
    assert [attempt["passed"] for attempt in report["attempts"]] == [False, False]
    assert all(attempt["parity"]["graph.fp32.onnx"]["cosine_mean"] < 0.9999 for attempt in report["attempts"])
    assert report["spec"]["backbone"] == "vit_mini_dinov3"


def test_a_fault_in_half_precision_alone_ends_in_fp32(export):
    swapped = Broken(OrtJudge(), **FAULTS["swapped channels"])
    bundle = export("bf16", lambda precision: default_judges("fp32") if precision == "fp32" else (swapped,))
    assert bundle.precisions == ["fp32"]
    assert [a.precision for a in bundle.receipt.attempts] == ["bf16"] * 4 + ["fp32"]


def test_after_a_failure_the_next_export_takes_the_place_and_a_failure_leaves_an_earlier_model(export):
    with pytest.raises(ParityError):
        export("fp32", broken_judges(**FAULTS["wrong mean"]))
    first = export("fp32")
    assert not (export.out / "failed.json").exists()
    with pytest.raises(ParityError):
        export("fp32", broken_judges(**FAULTS["wrong mean"]))
    assert open_bundle(export.out).receipt.files == first.receipt.files
    assert (export.out / "failed.json").exists()


def test_a_graph_that_no_backend_reads_is_exit_4(export):
    def spoil(path):
        path.write_bytes(path.read_bytes()[:1000])

    class Refuses:
        name = "refuses"

        def outputs(self, graph, images):
            raise BuildError(f"refuses {graph.name}")

    with pytest.raises(BuildError, match=r"none of 2 plans passed; .* refuses graph\.fp32\.onnx") as caught:
        export("fp32", lambda precision: (Refuses(),))
    assert caught.value.exit_code == 4
    assert [path.name for path in export.out.iterdir()] == ["failed.json"]
