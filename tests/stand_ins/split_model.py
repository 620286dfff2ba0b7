"""A model directory of two halves that can be told by hand: the tap is the mean colour of a cell, and features are half
the tap, of the last backbone run, and half the mean colour of this very frame.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import tiny_bundle
import tiny_model
from onnx import helper, numpy_helper
from receipts import receipt_of

from brixel_edge.export.graph.cut import write_halves
from brixel_edge.model.bundle import write_receipt
from brixel_edge.model.spec import ModelSpec
from brixel_edge.proof.proof import proof_from_references, save_proof


def spec(adapter: str = "conv") -> ModelSpec:
    return dataclasses.replace(tiny_model.spec(), adapter=adapter)


def save_graph(path: Path, *, reads_frame: bool = True) -> Path:
    """The whole graph, its tap named."""
    tiny = onnx.load(str(tiny_model.save(path, spec(), bias=0.0)))
    nodes = [node for node in tiny.graph.node if node.op_type != "Conv"]
    [conv] = [node for node in tiny.graph.node if node.op_type == "Conv"]
    backbone = onnx.NodeProto()
    backbone.CopyFrom(conv)
    backbone.output[0] = "tap.0"
    nodes.append(backbone)
    if reads_frame:
        own = onnx.NodeProto()
        own.CopyFrom(conv)
        own.name, own.output[0] = "own", "own"
        nodes += [own, helper.make_node("Add", ["tap.0", "own"], ["sum"])]
    else:
        nodes += [helper.make_node("Add", ["tap.0", "tap.0"], ["sum"])]
    nodes.append(helper.make_node("Mul", ["sum", "half"], ["features"]))
    tiny.graph.ClearField("node")
    tiny.graph.node.extend(nodes)
    tiny.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    onnx.checker.check_model(tiny)
    path.write_bytes(tiny.SerializeToString())
    return path


def cells(image: np.ndarray) -> np.ndarray:
    """(8, 12, 4): what one half of the features is made of, by hand."""
    means = tiny_model.cell_means(image.astype(float))
    return np.concatenate([means, np.zeros((*means.shape[:2], 1))], axis=2)


def save(root: Path, *, adapter: str = "conv", has_halves: bool = True) -> Path:
    """A directory that was exported with --split."""
    root.mkdir(parents=True)
    graph = save_graph(root / "graph.fp32.onnx")
    if has_halves:
        write_halves(graph)
    images = [tiny_bundle.photograph(number) for number in range(3)]
    features = [cells(image[0]).transpose(2, 0, 1)[None].astype(np.float32) for image in images]
    save_proof(proof_from_references([f"{number}.png" for number in range(3)], images, features), root / "proof.npz")
    write_receipt(root, receipt_of(spec(adapter)))
    return root
