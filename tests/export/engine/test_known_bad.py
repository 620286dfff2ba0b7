"""The table of known-bad TensorRT targets, and the default lowering of sampling that it gives."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import get_args

import pytest

from brixel_edge.errors import SpecError
from brixel_edge.export.engine.known_bad import (
    TABLE,
    KnownBad,
    Pattern,
    default_sampler,
    graph_patterns,
    known_bad,
    sampler_order,
)
from brixel_edge.export.engine.target import BuildTarget, target_here, version_tuple
from brixel_edge.model.graph_facts import graph_facts


def threads(target, *patterns):
    return {row.thread for row in known_bad(target, frozenset(patterns))}


def test_every_row_can_be_acted_on():
    for row in TABLE:
        assert re.fullmatch(r"[\w-]+/[\w-]+(#\d+| release notes [\d.]+| docs/[\w.]+ of [\d.and ]+)", row.thread), (
            row.thread
        )
        assert row.pattern in get_args(Pattern)
        assert row.what and row.advice and row.thread in row.line
        assert row.until is None or version_tuple(row.since) < version_tuple(row.until)
        assert row.sampler is None or row.pattern.startswith("gridsample")


@pytest.mark.parametrize(
    ("version", "capability", "sampler"),
    [
        ("8.6.2", 87, "gather"),  # three times slower on Orin, NVIDIA/TensorRT#4246
        ("8.6.1", 89, "gridsample"),
        ("10.2.0", 89, "gather"),  # four times slower, fixed in 10.3
        ("10.3.0", 87, "gridsample"),  # JetPack 6.1 and 6.2
        ("10.13.0", 89, "gridsample"),
        ("10.13.3.9", 75, "gather"),  # lightly-ai/lightly-train#917, T4
        ("10.13.3", 110, "gridsample"),
        ("10.14.0", 89, "gather"),  # NVIDIA/TensorRT#4813: the fusion
        ("10.16.2", 87, "gather"),  # JetPack 7.2
        ("11.1", 120, "gather"),
        ("11.4.0.106", 120, "gather"),  # no fix is known
    ],
)
def test_default_sampler_of_a_target(version, capability, sampler):
    assert (
        default_sampler(BuildTarget(version=version, compute_capabilities=(capability,), precision="fp32")) == sampler
    )


def test_default_sampler_where_the_target_is_not_known():
    assert default_sampler(BuildTarget()) == "gather"
    assert default_sampler(BuildTarget(version="8.6.1")) == "gather"  # it could be an Orin
    assert (
        default_sampler(BuildTarget(kind="trt-rtx", version="1.7.1.116", compute_capabilities=(86, 120)))
        == "gridsample"
    )


def test_the_default_sampler_is_tried_first_and_the_others_after():
    assert sampler_order(BuildTarget(version="10.14.1", compute_capabilities=(89,))) == (
        "gather",
        "gridsample",
        "materialised",
    )
    assert sampler_order(BuildTarget(version="10.3.0", compute_capabilities=(87,))) == (
        "gridsample",
        "gather",
        "materialised",
    )


def test_rows_are_chosen_by_release_gpu_precision_and_pattern():
    orin = BuildTarget(version="10.3.0", compute_capabilities=(87,), precision="fp16")
    assert threads(orin, "vit") == {"NVIDIA/TensorRT#4723", "NVIDIA/TensorRT#4419"}
    assert threads(orin) == set()
    assert threads(BuildTarget(version="10.3.0", compute_capabilities=(89,), precision="fp16"), "vit") == {
        "NVIDIA/TensorRT#4419"
    }
    assert threads(BuildTarget(version="10.3.0", compute_capabilities=(87,), precision="bf16"), "vit") == set()
    assert threads(BuildTarget(version="10.4.0", compute_capabilities=(87,), precision="fp32"), "vit") == {
        "NVIDIA/TensorRT#4742"
    }
    assert threads(BuildTarget(version="10.5.0", compute_capabilities=(87,), precision="fp16"), "vit") == set()
    assert threads(BuildTarget(kind="trt-rtx", version="10.3.0", compute_capabilities=(87,)), "vit") == set()


def test_the_bounds_of_a_row_are_since_and_before_until():
    row = KnownBad(thread="a/b#1", pattern="vit", since="10.13.3", until="10.14", what="w", advice="a")
    for version, expected in {
        "10.13.2": False,
        "10.13.3": True,
        "10.13.3.9": True,
        "10.13.9": True,
        "10.14": False,
        "10.14.1": False,
        "9.9": False,
    }.items():
        assert row.concerns(BuildTarget(version=version)) is expected, version


def test_versions_are_numbers():
    assert version_tuple("10.16.2rc1") == (10, 16, 2)
    assert version_tuple("11.4.0.106") == (11, 4, 0, 106)
    with pytest.raises(SpecError, match="TensorRT version 'latest' is not a number such as"):
        BuildTarget(version="latest")


def test_the_target_of_this_machine_is_found_without_loading_tensorrt(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "stand_ins"))
    world = importlib.import_module("trt_stand_in").World("10.3.0", sm=87)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", world.cudart)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # to load it would be an error

    def version(name):
        if name != "tensorrt":
            raise importlib.metadata.PackageNotFoundError(name)
        return "10.3.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert target_here("trt", "fp16", (86,)) == BuildTarget(
        version="10.3.0", compute_capabilities=(87,), precision="fp16"
    )
    assert target_here("trt-rtx", "int8", (86, 120)) == BuildTarget(
        kind="trt-rtx", version=None, compute_capabilities=(86, 120), precision="int8"
    )
    world.fault["no_gpu"] = True
    assert target_here("trt", "fp16", ()).compute_capabilities == ()


@pytest.mark.parametrize(
    ("graph", "patterns"),
    [
        (("vit", "fp16"), {"attention", "vit", "norm-layer"}),
        (("vit_with_islands",), {"attention", "vit", "norm-layer"}),
        (("quantized",), {"qdq"}),
        (("grid_sample", "fp32", 17), {"gridsample"}),
        (("grid_sample", "fp32", 20, "linear"), {"gridsample", "gridsample-linear"}),
        (("norm_in_pieces",), {"norm-decomposed"}),
        (("transposed_convolution",), {"conv-transpose"}),
    ],
)
def test_patterns_of_a_graph(monkeypatch, tmp_path, graph, patterns):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "stand_ins"))
    maker = importlib.import_module("small_graphs")
    name, *arguments = graph
    path = maker.save(getattr(maker, name)(*arguments), tmp_path / "graph.onnx")
    assert graph_patterns(graph_facts(path)) == patterns
