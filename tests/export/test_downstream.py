"""Our files in the hands of others: onnxruntime alone, OpenVINO, and onnx's own reference evaluator agree."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
from brixel_edge.export.graph.reference import reference_features
from brixel_edge.export.graph.to_onnx import onnx_from_model
from brixel_edge.export.half.islands import find_islands
from brixel_edge.export.half.ranges import measure_ranges
from brixel_edge.export.half.to_half import half_from_float
from brixel_edge.proof.parity import GATES, compare


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two blocks of width 64 at 32 x 64 px: graph by sampler, images, what PyTorch computes."""
    import dataclasses

    import torch

    from brixel_edge.model.backbones import BACKBONES
    from brixel_edge.network.backbone import Backbone, create_vit
    from brixel_edge.network.student import Student, build_refiner

    row = dataclasses.replace(
        BACKBONES["vit_mini_dinov3"],
        width=64,
        depth=2,
        tap_layers=(0, 1),
        overrides=(("embed_dim", 64), ("depth", 2), ("num_heads", 1)),
    )
    torch.manual_seed(0)
    student = Student(Backbone(create_vit(row), row, trained=False), build_refiner(64, 2)).eval()
    spec = spec_from_student(student, 32, 64, "brixel", name="small")
    path = tmp_path_factory.mktemp("downstream") / "graph.fp32.onnx"
    onnx_from_model(FusedModel(student, spec, "gather").eval(), spec, path)
    images = [np.random.default_rng(seed).integers(0, 256, (1, 32, 64, 3), dtype=np.uint8) for seed in range(2)]
    return path, images, reference_features(student, spec, images)


@pytest.fixture(scope="module")
def graphs(small, tmp_path_factory):
    """The same graph in three precisions."""
    path, images, _ = small
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    ranges = measure_ranges(model, images)
    folder, found = tmp_path_factory.mktemp("precisions"), {"fp32": path}
    for precision in ("fp16", "bf16"):
        islands = [island.node for island in find_islands(model, ranges, precision)]
        found[precision] = folder / f"graph.{precision}.onnx"
        onnx.save(half_from_float(model, precision, islands), str(found[precision]))
    return found


ORT_ALONE = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], numpy.concatenate([session.run(None, {"image": x})[0] for x in image[:, None]]))
assert not {"brixel_edge", "torch", "onnx"} & set(sys.modules)
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_alone_runs_them(graphs, small, tmp_path, precision):
    _, images, reference = small
    np.save(tmp_path / "images.npy", np.concatenate(images))
    arguments = [graphs[precision], tmp_path / "images.npy", tmp_path / "out.npy"]
    subprocess.run([sys.executable, "-c", ORT_ALONE, *map(str, arguments)], check=True, cwd=tmp_path)
    assert compare(reference, list(np.load(tmp_path / "out.npy")[:, None])).passes(GATES[precision])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_openvino_runs_them(graphs, small, precision):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    _, images, reference = small
    compiled = openvino.compile_model(str(graphs[precision]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert compare(reference, [compiled([image])[0] for image in images]).passes(GATES[precision])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_reference_evaluator_of_onnx_runs_them(graphs, small, precision):
    _, images, reference = small
    evaluator = ReferenceEvaluator(str(graphs[precision]))
    features = [evaluator.run(None, {"image": image})[0] for image in images[:1]]
    assert features[0].dtype == np.float32
    report = compare(reference[:1], features)
    assert report.passes(GATES[precision])
    if precision != "fp32":
        assert report.frobenius > 1e-4  # it really rounds
