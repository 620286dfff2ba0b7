"""A graph whose features can be told by hand: channel c of a cell is the mean of colour c over its 4 x 4 pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.model.onnx_file import SPEC_KEY, with_digest
from brixel_edge.model.spec import ImageSpec, ModelSpec

DIM, CELL_PX = 4, 4
CONSTANT = 100.0  # value of the last channel everywhere


def spec(height: int = 32, width: int = 48, trained: bool = True, channels: str = "BGR") -> ModelSpec:
    return ModelSpec(
        backbone="tiny",
        patch_px=16,
        dim=DIM,
        tap_layers=(0,),
        adapter="none",
        image=ImageSpec(height=height, width=width, mean=(0.0, 0.5, 0.75), std=(1.0, 1.0, 1.0), channels=channels),
        grid=(height // CELL_PX, width // CELL_PX),
        licence="none",
        trained=trained,
    )


def save(path: Path, model_spec: ModelSpec | None = None, bias: float = CONSTANT, has_spec: bool = True) -> Path:
    model_spec = model_spec or spec()
    image, grid = model_spec.image, model_spec.grid
    weight = np.zeros((DIM, 3, CELL_PX, CELL_PX), np.float32)
    for channel in range(3):
        weight[channel, channel] = 1 / CELL_PX**2
    offsets = np.array([0, 0, 0, bias], np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["chw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["chw", "weight", "offsets"], ["features"], strides=[CELL_PX, CELL_PX]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, image.height, image.width, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, DIM, *grid])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(offsets, "offsets")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if has_spec:
        helper.set_model_props(model, {SPEC_KEY: json.dumps(model_spec.to_json())})
    onnx.checker.check_model(model)
    path.write_bytes(with_digest(model.SerializeToString()))
    return path


def cell_means(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H / 4, W / 4, 3), by a second method."""
    height, width, _ = pixels.shape
    return pixels.reshape(height // CELL_PX, CELL_PX, width // CELL_PX, CELL_PX, 3).mean((1, 3))
