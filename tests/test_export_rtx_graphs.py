"""Every kind of graph that we export, parsed and built by TensorRT-RTX on the CPU.

It proves that TensorRT accepts the graphs with their types; numbers are proven elsewhere. Weights are random: what is
refused depends on shapes and types alone.
"""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import onnx
import pytest

from brixel_edge.export.engine_settings import EngineSettings
from brixel_edge.export.islands import find_islands
from brixel_edge.export.ranges import measure_ranges
from brixel_edge.export.to_engine import engine_from_onnx
from brixel_edge.export.to_half import half_from_float

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None,
        reason="tensorrt-rtx is not installed: pip install 'brixel-edge[trt-rtx]'",
    ),
]

# name -> backbone, what is made smaller, adapter, (H, W), sampler
MODELS = {
    "vit-s": ("vit_small_patch16_dinov3", {}, "brixel", (256, 256), "gridsample"),
    "vit-s, gather, not square": ("vit_small_patch16_dinov3", {"depth": 2}, "brixel", (96, 160), "gather"),
    "default": ("vit_mini_dinov3", {}, "brixel", (256, 256), "gridsample"),
    "default, materialised": ("vit_mini_dinov3", {"depth": 2}, "brixel", (64, 96), "materialised"),
    "patch 14": ("vit_small_patch14_dinov2", {"depth": 2}, "brixel", (112, 168), "gather"),
    "conv adapter": ("vit_mini_dinov3", {"depth": 2}, "conv", (64, 96), "gridsample"),
    "no adapter": ("vit_base_patch16_siglip2", {"depth": 2}, "none", (64, 96), "gridsample"),
}


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """Graph by model and precision; the fp32 graph of a model is traced once."""
    folder = tmp_path_factory.mktemp("rtx")

    def graph(model: str, precision: str):
        stem = model.replace(", ", "-").replace(" ", "-")
        source = folder / f"{stem}.fp32.onnx"
        if not source.exists():
            trace(model, source)
        if precision == "fp32":
            return source
        float_graph = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
        shape = [dim.dim_value for dim in float_graph.graph.input[0].type.tensor_type.shape.dim]
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        islands = find_islands(float_graph, measure_ranges(float_graph, [image]), precision)
        path = folder / f"{stem}.{precision}.onnx"
        onnx.save(half_from_float(float_graph, precision, [island.node for island in islands]), str(path))
        return path

    return graph


def trace(model: str, path) -> None:
    from brixel_edge.backbone import Backbone, create_vit
    from brixel_edge.backbone_specs import BACKBONES
    from brixel_edge.export.fuse import FusedModel, spec_from_student
    from brixel_edge.export.to_onnx import onnx_from_model
    from brixel_edge.student import Student, build_refiner

    name, smaller, adapter, size, sampler = MODELS[model]
    row = BACKBONES[name]
    if smaller:
        depth = smaller["depth"]
        row = dataclasses.replace(
            row, depth=depth, tap_layers=tuple(range(depth)), overrides=(*row.overrides, ("depth", depth))
        )
    refiner = build_refiner(row.width, len(row.tap_layers), adapter)
    student = Student(Backbone(create_vit(row), row, trained=False), refiner).eval()
    spec = spec_from_student(student, *size, adapter, name=name)
    onnx_from_model(FusedModel(student, spec, sampler).eval(), spec, path, has_samples=sampler == "materialised")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_every_exported_graph_parses_and_builds(typed, tmp_path, model, precision):
    built = engine_from_onnx(
        typed(model, precision),
        precision=precision,
        out=tmp_path,
        kind="trt-rtx",
        settings=EngineSettings(rtx_capabilities=(86,)),
    )
    assert built.report.typing == "strong"
    tensors = {
        tensor.name: (tensor.dtype, tensor.shape[-1] if tensor.is_input else None) for tensor in built.report.tensors
    }
    assert tensors["image"] == ("uint8", 3)
    assert tensors["features"][0] == "fp32"
    assert sum(name.startswith("materialised.") for name in tensors) == (4 if "materialised" in model else 0)
    assert built.report.layer_types[precision] > 50
