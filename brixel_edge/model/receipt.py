"""The receipt `model.json`: what was exported, from what, how it was proven, what was tried. Versioned.

`receipt.schema.json` beside this module is its JSON Schema, for other programs; here only what is used is checked, so
that reading needs no further package. Version 1 had one sampler for the whole directory and no attempts, precisions,
islands or measurements; it is read as version 2 without them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from brixel_edge.errors import BundleError

RECEIPT_VERSION = 2
SCHEMA_PATH = Path(__file__).parent / "receipt.schema.json"

# Sections that readers may rely on, each with what stands for its absence. Times and sizes of memory, which differ from
# run to run, are all in `measured`; everything else is the same whenever the inputs are.
SECTIONS: dict[str, Any] = {
    "requested": {},
    "weights": {},
    "samplers": {},
    "census": {},
    "precisions": {},
    "islands": {},
    "parity": {},
    "attempts": [],
    "engines": {},
    "tools": {},
    "measured": {},
}


def read_receipt(path: Path) -> dict[str, Any]:
    """Read a receipt of this or an earlier version, as one of this version.

    Raises:
        BundleError: not a receipt, or of a later version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["manifest_version"]
        if not isinstance(version, int) or not 1 <= version <= RECEIPT_VERSION:
            raise BundleError(
                f"{path} has version {version}, this release reads 1 to {RECEIPT_VERSION}; update brixel-edge, or "
                "export again"
            )
        files = record["files"]
        if not isinstance(record["spec"], dict) or not all("sha256" in entry for entry in files.values()):
            raise KeyError("spec, files")
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not a readable receipt ({error!r}); export the model again") from error
    return _from_version_1(record) if version == 1 else {**SECTIONS, **record}


def _from_version_1(record: dict[str, Any]) -> dict[str, Any]:
    fields = {**SECTIONS, **record, "manifest_version": RECEIPT_VERSION}
    sampler = fields.pop("sampler", None)
    graphs = [name for name in record["files"] if name.endswith(".onnx")]
    return {**fields, "samplers": dict.fromkeys(graphs, sampler) if sampler else {}}
