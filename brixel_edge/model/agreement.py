"""Does a graph do what its spec says? The receipt and the graph's own metadata say it, and its tensors show it.

A `channels` edited in model.json alone would swap red and blue without an error, a `dim` or `grid` misplace every cell.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from brixel_edge.errors import BundleError
from brixel_edge.model.graph_facts import TensorFacts, graph_ends
from brixel_edge.model.onnx_file import has_intact_digest, spec_from_onnx
from brixel_edge.model.spec import ModelSpec

_LOG = logging.getLogger(__name__)
_FLOATS = ("fp32", "fp16", "bf16")


def check_bare_graph(path: Path) -> ModelSpec:
    """The spec of a graph that lies alone: unchanged since its export, and of its tensors.

    Raises:
        BundleError: no graph of brixel-export, or one that was changed.
        SpecError: a spec of another version.
    """
    spec = spec_from_onnx(path)
    if not has_intact_digest(path):
        _LOG.warning("%s carries no digest of its weights, damage would not be noticed; export it again", path.name)
    check_tensors_of_graph(path, spec)
    return spec


def check_graph_of_receipt(path: Path, spec: ModelSpec) -> None:
    """Refuse a graph that is not what the receipt beside it says.

    Args:
        path: of the graph.
        spec: from the receipt.

    Raises:
        BundleError: the graph's metadata or its tensors differ.
    """
    told, own = _flat(spec.to_json()), _flat(spec_from_onnx(path).to_json())
    differing = [name for name in told if told[name] != own.get(name)]
    if differing:
        name = differing[0]
        raise BundleError(
            f"{path.parent}/model.json says {name} {told[name]}, {path.name} says {own.get(name)}; one was edited: "
            "export the model again"
        )
    check_tensors_of_graph(path, spec)


def check_tensors_of_graph(path: Path, spec: ModelSpec) -> None:
    """Refuse a graph whose input or outputs have another type or shape than its spec says.

    Raises:
        BundleError: they have.
    """
    inputs, outputs = graph_ends(path)
    image = (1, spec.image.height, spec.image.width, 3)
    if len(inputs) != 1 or inputs[0].dtype != "uint8" or inputs[0].shape != image:
        raise BundleError(f"{path} takes {_told(inputs)}, its spec says one uint8 {image}; export it again")
    found = {output.name: output for output in outputs}
    for name, shape in spec.outputs.items():
        if name not in found or found[name].dtype not in _FLOATS or found[name].shape != shape:
            raise BundleError(f"{path} gives {_told(outputs)}, its spec says float {name} {shape}; export it again")


def _told(tensors: tuple[TensorFacts, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in tensors) or "nothing"


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"image": {"width": 3}}` -> `{"image.width": 3}`."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
