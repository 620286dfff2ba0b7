"""Every size is an export of its own, with constants: families of backbones at sizes that are not their own.

Learnt positions (DINOv2, SigLIP 2, PE) are resized by an antialiased bicubic kernel, which TensorRT refuses, and timm's
rotary positions divide by the grid that was traced. Neither may be left in a graph; what stands there instead is
compared with timm's own forward pass at that size.
"""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from brixel_edge.export.graph.fuse import FusedModel, spec_from_student
from brixel_edge.export.graph.to_onnx import onnx_from_model
from brixel_edge.model.backbones import BACKBONES
from brixel_edge.network.backbone import Backbone, create_vit
from brixel_edge.network.student import Student

# family -> backbone of the table, two sizes: neither is the one that it was trained at
FAMILIES = {
    "dinov3": ("vit_small_patch16_dinov3", [(64, 96), (48, 112)]),
    "siglip2": ("vit_base_patch16_siglip2", [(64, 96), (48, 112)]),
    "pe": ("vit_base_patch16_pe", [(64, 96), (48, 112)]),
    "dinov2, patch 14": ("vit_small_patch14_dinov2", [(56, 84), (70, 42)]),
}


def small_student(name: str) -> Student:
    """Two narrow blocks with random positions, so that a wrong resize shows."""
    row = BACKBONES[name]
    smaller = {"embed_dim": 64, "depth": 2, "num_heads": 1}
    row = dataclasses.replace(
        row, width=64, depth=2, tap_layers=(0, 1), overrides=tuple((dict(row.overrides) | smaller).items())
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = create_vit(row)
        for parameter_name, parameter in vit.named_parameters():
            if "pos_embed" in parameter_name or "gamma" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.5)
    return Student(Backbone(vit, row, trained=False), None).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_are_right_at_every_size_and_nothing_is_resized_in_the_graph(family, tmp_path):
    name, sizes = FAMILIES[family]
    student = small_student(name)
    vit, spec = student.backbone.vit, student.backbone.spec
    constants = []
    for height, width in sizes:
        model_spec = spec_from_student(student, height, width, "none", name=name)
        path = tmp_path / f"{height}x{width}.onnx"
        census = onnx_from_model(FusedModel(student, model_spec).eval(), model_spec, path)
        assert not {"Resize", "Sin", "Cos", "Range", "If", "Tile"} & census.ops.keys()
        image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        mean, std = np.array(spec.mean), np.array(spec.std)
        pixels = torch.from_numpy(((image[..., ::-1] / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
        with torch.no_grad():
            # timm's own forward pass, positions made for this size on the spot
            expected = vit.forward_intermediates(pixels.contiguous(), indices=[1], norm=True, intermediates_only=True)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        features = session.run(None, {"image": image})[0]
        assert features.shape == (1, 64, height // spec.patch_px, width // spec.patch_px)
        assert np.abs(features - expected[0].numpy()).max() < 1e-4 * expected[0].abs().max()
        constants.append(sum(np.prod(entry.dims) for entry in onnx.load(str(path)).graph.initializer))
    assert constants[0] != constants[1]  # each size has tables of its own
