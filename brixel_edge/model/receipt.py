"""The receipt `model.json`: what was exported, from what, how it was proven, what was tried. Versioned.

`receipt.schema.json` beside this module is its JSON Schema, for other programs; the classes say and check the same, so
that reading needs no further package. Version 1 had one sampler for the whole directory and no attempts, precisions,
islands or measurements; it is read as version 2 without them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from brixel_edge.errors import BundleError
from brixel_edge.model.json_form import fields_from_json, fields_to_json
from brixel_edge.model.receipt_sections import (
    Attempt,
    Census,
    EngineRecord,
    Evaluation,
    FileEntry,
    Halves,
    Int8,
    Islands,
    Measured,
    Parity,
    Requested,
    Weights,
)
from brixel_edge.model.spec import ModelSpec, SamplerKind

RECEIPT_VERSION = 2
SCHEMA_PATH = Path(__file__).parent / "receipt.schema.json"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What model.json says; the same inputs give the same receipt but for `measured`.

    Attributes:
        spec: what the model is.
        files: every file of the directory but model.json, by name.
        samplers: lowering of deformable sampling by graph.
        census: operators by graph.
        precisions: by graph: operator, type that it computes in, nodes.
        islands: by half-precision graph.
        parity: by graph or engine, against PyTorch in fp32.
        engines: by TensorRT engine.
        attempts: every lowering that was tried, in order.
        requested: the engine that was asked for first, and what was made.
        also_requested: further engines, of the same export or added since; None for no more.
        weights: where they came from.
        tools: versions.
        int8: None where nothing was quantised.
        measured: all that differs from run to run.
        halves: by adapter of --split, how both halves compare with their graph; None where nothing was cut.
        evaluations: scores on labelled data, added after the export; None where there are none.
    """

    spec: ModelSpec
    files: dict[str, FileEntry] = field(default_factory=dict)
    samplers: dict[str, SamplerKind] = field(default_factory=dict)
    census: dict[str, Census] = field(default_factory=dict)
    precisions: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    islands: dict[str, Islands] = field(default_factory=dict)
    parity: dict[str, Parity] = field(default_factory=dict)
    engines: dict[str, EngineRecord] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    requested: Requested
    also_requested: tuple[Requested, ...] | None = None
    weights: Weights
    tools: dict[str, str] = field(default_factory=dict)
    int8: Int8 | None = None
    measured: Measured = field(default_factory=Measured)
    halves: dict[str, Halves] | None = None
    evaluations: tuple[Evaluation, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the version of the form."""
        return {"manifest_version": RECEIPT_VERSION, **fields_to_json(self)}


_OPTIONAL = ("int8", "halves", "evaluations", "also_requested")
REQUIRED = tuple(entry.name for entry in fields(Receipt) if entry.name not in _OPTIONAL)


def read_receipt(path: Path) -> Receipt:
    """Read a receipt of this or an earlier version, as one of this version.

    Raises:
        BundleError: not a receipt, or of a later version.
        SpecError: the spec in it is of another version, or cannot be.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record.pop("manifest_version")
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is not a readable receipt ({error!r}); export the model again") from error
    if not isinstance(version, int) or not 1 <= version <= RECEIPT_VERSION:
        raise BundleError(
            f"{path} has version {version}, this release reads 1 to {RECEIPT_VERSION}; update brixel-edge, or "
            "export again"
        )
    try:
        if version == 1:
            return fields_from_json(Receipt, _from_version_1(record))
        if missing := [name for name in REQUIRED if name not in record]:
            raise BundleError(f"{missing[0]} is missing")
        return fields_from_json(Receipt, record)
    except BundleError as error:
        raise BundleError(f"{path} is not a readable receipt ({error}); export the model again") from error


def _from_version_1(record: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had fp32 graphs alone, and one sampler for all of them."""
    kept = {name: value for name, value in record.items() if name not in ("sampler", "parity")}
    graphs = [name for name in record.get("files", {}) if name.endswith(".onnx")]
    proven = {
        name: {**figures, "photographs": [], "gate": "fp32", "also": []}
        for name, figures in record.get("parity", {}).items()
    }
    sampler = record.get("sampler", "gridsample")
    asked = {"engine": "onnx", "precision": "fp32", "samplers": [sampler]}
    made = {"precision": "fp32", "sampler": sampler, "islands": None}
    requested = {**asked, "made": made, "is_first_choice": True}
    return {**kept, "samplers": dict.fromkeys(graphs, sampler), "parity": proven, "requested": requested}
