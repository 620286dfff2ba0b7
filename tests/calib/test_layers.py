"""The partition of a graph's linears and convolutions into candidates and exclusions."""

import numpy as np
import pytest
from calib_vit import ToyVit, small_graph
from onnx import helper

from brixel_edge.calib.graph import Graph
from brixel_edge.calib.layers import find_layers


@pytest.fixture(scope="module")
def toy():
    return Graph(ToyVit().graph())


def reasons(graph):
    return {layer.output: layer.excluded for layer in find_layers(graph)}


def test_partition_of_the_toy_model(toy):
    found = reasons(toy)
    kept = {name: reason for name, reason in found.items() if reason}
    assert kept == {
        "patch": "patch embedding",
        "stem1": "first convolution on pixels",
        "sampling_offsets": "sampling offsets",
        "attention_weights": "attention weights of the sampling",
        "head3": "last 1x1 layer",
    }
    blocks = {f"{block}.{name}" for block in range(4) for name in ("qkv", "proj", "fc1", "fc2")}
    assert set(found) - set(kept) == blocks | {"stem2", "stem3", "value_proj", "output_proj", "head1", "head2"}


def test_partition_never_holds_attention_products(toy):
    products = {node.name for node in toy.nodes if node.op_type == "MatMul" and "scores" in node.output[0]}
    assert products and products.isdisjoint(layer.name for layer in find_layers(toy))


def test_macs_are_positions_times_weights(toy):
    layers = {layer.output: layer for layer in find_layers(toy)}
    assert layers["0.qkv"].macs == 54 * 128 * 384
    assert layers["stem2"].macs == 28 * 28 * 32 * 16 * 9


def test_gemm_and_transposed_weight_are_understood():
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2"], ["y"]),
    ]
    constants = {"w1": np.ones((32, 16), np.float32), "b1": np.ones(32, np.float32), "w2": np.ones((32, 8), np.float32)}
    first, second = find_layers(small_graph(nodes, {"x": (5, 16), "y": (5, 8)}, constants))
    assert (first.in_axis, first.out_axis, first.bias, first.macs) == (1, 0, "b1", 5 * 16 * 32)
    assert second.excluded == "fewer than 16 channels (32x8)"


def test_single_row_and_depthwise_stay_float():
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["a", "deep"], ["b"], kernel_shape=[3, 3], group=32, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["row"]),
        helper.make_node("MatMul", ["row", "w"], ["y"]),
    ]
    constants = {"first": np.ones((32, 32, 1, 1)), "deep": np.ones((32, 1, 3, 3)), "w": np.ones((32, 64))}
    graph = small_graph(
        nodes, {"x": (1, 32, 8, 8), "y": (1, 64)}, {name: value.astype(np.float32) for name, value in constants.items()}
    )
    assert reasons(graph) == {
        "a": "first convolution on pixels",
        "b": "fewer than 16 channels (32x1)",
        "y": "a single row",
    }


def test_gathered_sampling_is_recognised_as_sampling():
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["offsets"]),
        helper.make_node("Floor", ["offsets"], ["cells"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    weight = np.ones((16, 16), np.float32)
    outputs = {"x": (1, 9, 16), "y": (1, 9, 16), "cells": (1, 9, 16)}
    graph = small_graph(nodes, outputs, {"w0": weight, "w": weight}, outputs=("y", "cells"))
    assert reasons(graph)["offsets"] == "sampling offsets"
    assert reasons(graph)["y"] == ""
