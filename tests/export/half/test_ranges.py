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


def fused_products() -> onnx.ModelProto:
    """image -> Cast -> MatMul -> Add -> Transpose -> Split into one part of size 1 and one of size 1e-7."""
    weight = np.ones((3, 2), np.float32) * np.float32([0.01, 1e-9])
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
        helper.make_node("Add", ["product", "b"], ["sum"], name="bias"),
        helper.make_node("Transpose", ["sum"], ["turned"], name="turn", perm=[0, 3, 1, 2]),
        helper.make_node("Split", ["turned", "sizes"], ["large", "small"], name="split", axis=1),
        helper.make_node("Add", ["large", "large"], ["other"], name="other"),
    ]
    constants = {"w": weight, "b": np.float32([0.5, 1e-8]), "sizes": np.int64([1, 1])}
    shapes = {"large": [1, 1, 4, 5], "small": [1, 1, 4, 5], "other": [1, 1, 4, 5]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4, 5, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )


def test_what_is_taken_apart_loses_what_its_smallest_part_loses(images):
    """By numpy: the small part keeps no bit in fp16; in the whole it is a ten-millionth of the norm."""
    ranges = measure_ranges(fused_products(), images)
    values = images[0].sum(-1) * np.float32(1e-9) + np.float32(1e-8)
    lost = np.linalg.norm(values.astype(np.float16).astype(np.float64) - values) / np.linalg.norm(values)
    assert lost > 0.05
    for name in ("small", "turned", "sum", "product"):
        assert ranges[name].fp16_error >= 0.9 * lost, name
    assert max(ranges[name].fp16_error for name in ("large", "other", "x")) < 3e-4
    assert ranges["small"].max_abs < 1e-5 < ranges["large"].max_abs == ranges["sum"].max_abs


def test_all_zero_tensors_lose_nothing():
    seen = measure_ranges(graph_of({"y": 2.0}), [np.zeros((1, 4, 5, 3), np.uint8)])["y"]
    assert (seen.max_abs, seen.fp16_error) == (0.0, 0.0)
