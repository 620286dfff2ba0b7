"""Ranges against numpy, on a graph whose tensors are known."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from brixel_edge.export.half.ranges import measure_ranges, range_of_values


def graph_of(factors: dict[str, float]) -> onnx.ModelProto:
    """image -> Cast -> Transpose, then one Mul for every factor."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], name="move", perm=[0, 3, 1, 2]),
    ]
    nodes += [helper.make_node("Mul", ["planes", f"w_{name}"], [name], name=f"n_{name}") for name in factors]
    constants = [numpy_helper.from_array(np.float32([factor]), f"w_{name}") for name, factor in factors.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4, 5, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 5]) for name in factors],
        constants,
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(1, top, (1, 4, 5, 3), dtype=np.uint8) for top in (40, 256, 90)]


def by_numpy(images, factor: float) -> tuple[float, float]:
    values = [image.astype(np.float32) * np.float32(factor) for image in images]
    with np.errstate(over="ignore"):
        lost = [np.linalg.norm(v.astype(np.float16).astype(np.float64) - v) / np.linalg.norm(v) for v in values]
    return max(np.abs(v).max() for v in values), max(lost)


@pytest.mark.parametrize("factor", [0.3, 1e-7, 3e-8, 250.0])
def test_ranges_are_numpys(images, factor):
    seen = measure_ranges(graph_of({"y": factor}), iter(images))["y"]
    largest, lost = by_numpy(images, factor)
    assert seen.max_abs == pytest.approx(largest, rel=1e-6)
    assert seen.fp16_error == pytest.approx(lost, rel=1e-4)


def test_what_fp16_loses_tells_underflow_from_a_good_fit(images):
    ranges = measure_ranges(graph_of({"fits": 0.3, "small": 1e-8, "large": 1e3}), images)
    assert ranges["fits"].fp16_error < 3e-4
    assert ranges["small"].fp16_error > 1e-2
    assert ranges["large"].fp16_error == np.inf
    assert ranges["large"].max_abs > 65504


def test_moved_tensors_have_the_range_of_their_source_and_constants_their_own(images):
    ranges = measure_ranges(graph_of({"y": -7.0}), images)
    assert ranges["planes"] == ranges["pixels"]
    assert ranges["pixels"].max_abs == max(image.max() for image in images)
    assert ranges["w_y"].max_abs == 7.0
    assert range_of_values(np.float32([1e9])).fp16_error == np.inf
    assert range_of_values(np.zeros(0, np.float32)).max_abs == 0


def test_all_zero_tensors_lose_nothing():
    seen = measure_ranges(graph_of({"y": 2.0}), [np.zeros((1, 4, 5, 3), np.uint8)])["y"]
    assert (seen.max_abs, seen.fp16_error) == (0.0, 0.0)
