"""Head files: a head's numbers as safetensors, and what it says of itself as JSON in the file's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from brixel_edge.errors import BundleError
from brixel_edge.machine.files import replacing
from brixel_edge.model.head import Head
from brixel_edge.model.head_spec import FeatureOrigin, HeadSpec
from brixel_edge.model.json_form import fields_from_json, fields_to_json

HEAD_KEY = "brixel_head"
HEAD_VERSION = 1


def save_head(path: Path, head: Head, facts: dict[str, Any] | None = None) -> None:
    """Write a head.

    Args:
        path: where to.
        head: the whole of it.
        facts: kept beside it, for people: where it was trained, what it scores.
    """
    record = {
        "head_version": HEAD_VERSION,
        "head": fields_to_json(head.spec),
        "features": fields_to_json(head.origin),
        "facts": facts or {},
    }
    state = {"weight": np.ascontiguousarray(head.weight), "bias": np.ascontiguousarray(head.bias)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={HEAD_KEY: json.dumps(record, sort_keys=True, allow_nan=False)})


def load_head(path: Path) -> Head:
    """Read what `save_head` wrote.

    Raises:
        BundleError: no head file, or one of another release.
        SpecError: a head that cannot be.
    """
    if not path.is_file():
        raise BundleError(f"no head at {path}; train one: brixel-eval ... --save-head {path.name}")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            record = json.loads(metadata[HEAD_KEY]) if HEAD_KEY in metadata else None
            state = {name: file.get_tensor(name) for name in names & {"weight", "bias"}}
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"{path} is not a readable safetensors file ({str(error).splitlines()[0][:120]})") from error
    if record is None:
        hint = "a light probe cannot be fused; train a linear one: " if "brixel_probe" in metadata else ""
        raise BundleError(f"{path} is no head; {hint}brixel-eval ... --probe linear --save-head FILE")
    version = record.get("head_version")
    if version != HEAD_VERSION or names != {"weight", "bias"}:
        raise BundleError(f"{path} is a head of version {version}, this release reads {HEAD_VERSION}; train it again")
    try:
        spec = fields_from_json(HeadSpec, record["head"], "head")
        origin = fields_from_json(FeatureOrigin, record["features"], "features")
    except (BundleError, KeyError) as error:
        raise BundleError(f"{path} is not a readable head ({error}); train it again") from error
    return Head(
        spec=spec, weight=state["weight"].astype(np.float32), bias=state["bias"].astype(np.float32), origin=origin
    )
