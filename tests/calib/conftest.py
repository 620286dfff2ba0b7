"""One quantised ViT with planted outliers for all tests of INT8: the finished run, and its stages one by one."""

import dataclasses
import json

import pytest
import tiny_model
from calib_vit import QUIET, TOY_FRAMES, outlier_vit, stages, stored_frames

from brixel_edge.calib.quantize import quantize


@pytest.fixture(scope="session")
def float_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "graph.fp32.onnx"
    model = outlier_vit().graph()
    model.metadata_props.add(key="brixel.spec", value=json.dumps(tiny_model.spec().to_json()))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def done(float_path, tmp_path_factory):
    """A finished run: (report, folder)."""
    folder = tmp_path_factory.mktemp("int8")
    settings = dataclasses.replace(QUIET, targets=("ort", "openvino"), curve_points=4)
    return quantize(float_path, stored_frames(TOY_FRAMES), out_dir=folder, settings=settings), folder


@pytest.fixture(scope="session")
def parts(float_path):
    """(graph, layers, calibration, smoothed graph, candidates, effects) of the same model."""
    return stages(float_path)
