"""Memory that calibration will take, by hand, and its refusal."""

import pytest
from calib_vit import ToyVit, small_graph
from onnx import helper

from brixel_edge.calib.choice.memory import peak_live_bytes, require_memory
from brixel_edge.calib.graph import Graph
from brixel_edge.errors import MemoryBudgetError


def test_peak_of_live_tensors_by_hand():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Concat", ["a", "a"], ["b"], axis=1),
        helper.make_node("Concat", ["b", "a"], ["c"], axis=1),
        helper.make_node("ReduceSum", ["c"], ["y"]),
    ]
    graph = small_graph(nodes, {"x": (1, 10), "y": (1, 1)}, {})
    assert peak_live_bytes(graph) == (10 + 20 + 30) * 4  # a, b and c while c is made


def test_memory_that_does_not_suffice_is_refused():
    toy = Graph(ToyVit().graph())
    with pytest.raises(MemoryBudgetError, match=r"at 112x112 takes about .* MiB, 100 MiB are allowed"):
        require_memory(toy, 100 << 20)
    require_memory(toy, 4 << 30)
