"""Every kind of graph that we export, parsed and built by TensorRT-RTX on the CPU.

It proves that TensorRT accepts the graphs with their types; numbers are proven elsewhere. Weights are random: what is
refused depends on shapes and types alone.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util

import numpy as np
import onnx
import pytest

from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.export.engine.to_engine import engine_from_onnx
from brixel_edge.export.half.islands import find_islands
from brixel_edge.export.half.ranges import measure_ranges
from brixel_edge.export.half.to_half import half_from_float

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
    "vit-s, conv adapter": ("vit_small_patch16_dinov3", {"depth": 2}, "conv", (64, 96), "gridsample"),
    "default": ("vit_mini_dinov3", {}, "brixel", (256, 256), "gridsample"),
    "default, materialised": ("vit_mini_dinov3", {"depth": 2}, "brixel", (64, 96), "materialised"),
    "patch 14": ("vit_small_patch14_dinov2", {"depth": 2}, "brixel", (112, 168), "gather"),
    "patch 14, conv adapter": ("vit_small_patch14_dinov2", {"depth": 2}, "conv", (56, 84), "gridsample"),
    "conv adapter, full frame": ("vit_mini_dinov3", {"depth": 2}, "conv, full frame", (128, 192), "gridsample"),
    "texture stem, full frame": ("vit_nano_dinov3", {"depth": 2}, "conv, full frame", (128, 192), "gridsample"),
    "no adapter": ("vit_base_patch16_siglip2", {"depth": 2}, "none", (64, 96), "gridsample"),
    "no adapter, pe": ("vit_base_patch16_pe", {"depth": 2}, "none", (96, 64), "gridsample"),
}
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


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
        shape = (1, *MODELS[model][3], 3)
        images = [np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8) for seed in range(2)]
        path = folder / f"{stem}.{precision}.onnx"
        if precision == "int8":
            importlib.import_module("all_integer").write(source, images, path)
            source = path
        float_graph = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
        half = "fp16" if precision == "int8" else precision  # trt-int8 is fp16 around its integers
        islands = find_islands(float_graph, measure_ranges(float_graph, images[:1]), half)
        onnx.save(half_from_float(float_graph, half, [island.node for island in islands]), str(path))
        return path

    return graph


def trace(model: str, path) -> None:
    from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
    from brixel_edge.export.graph.to_onnx import onnx_from_model
    from brixel_edge.model.adapters import ConvSettings
    from brixel_edge.model.backbones import BACKBONES
    from brixel_edge.network.backbone import Backbone, create_vit
    from brixel_edge.network.student import Student, build_refiner

    name, smaller, adapter, size, sampler = MODELS[model]
    row = BACKBONES[name]
    if smaller:
        depth = smaller["depth"]
        row = dataclasses.replace(
            row, depth=depth, tap_layers=tuple(range(depth)), overrides=(*row.overrides, ("depth", depth))
        )
    adapter, *frame = adapter.split(", ")
    conv = ConvSettings(full_frame=bool(frame), texture_stem=bool(frame) and row.has_texture_stem)
    refiner = build_refiner(row.width, len(row.tap_layers), adapter, conv=conv)
    student = Student(Backbone(create_vit(row), row, trained=False), refiner).eval()
    spec = spec_from_student(student, *size, adapter, name=name)
    onnx_from_model(FusedModel(student, spec, sampler).eval(), spec, path, has_samples=sampler == "materialised")


@pytest.mark.parametrize("precision", PRECISIONS)
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
    layers = built.report.layer_types
    assert layers["fp16" if precision == "int8" else precision] > 30
    # Three layers of int8 output a node: two quantisers (activation and weight) and what TensorRT sets between them.
    assert (layers.get("int8", 0) > 10) == (precision == "int8")
