"""Notes that an engine has passed its gate on a device: beside the model, or where that is read only, in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brixel_edge.machine.cache import cache_folder
from brixel_edge.machine.files import write_atomically
from brixel_edge.model.bundle import PASSED_SUFFIX


def passed_path(engine: Path, backend: str = "trt") -> Path:
    """Where it is written that an engine passed; a graph has one note for each backend."""
    middle = "" if backend == "trt" else f".{backend}"
    return engine.with_name(f"{engine.name}{middle}{PASSED_SUFFIX}")


def noted_pass(path: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The note of a pass.

    Args:
        path: beside the engine.
        fingerprint: what the pass depends on: engine, device, versions; every entry must be the same.

    Returns:
        what was noted, its figures among it; None where there is no such note.
    """
    for place in (path, _in_cache(fingerprint)):
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(place.read_text(encoding="utf-8"))
            if isinstance(record, dict) and all(record.get(name) == value for name, value in fingerprint.items()):
                return record
    return None


def note_pass(path: Path, fingerprint: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Write a note; where nothing can be written at all, the gate is asked again at the next load."""
    text = json.dumps({**fingerprint, **figures}, indent=2) + "\n"
    try:
        write_atomically(path, text)
    except OSError:
        with contextlib.suppress(OSError):
            place = _in_cache(fingerprint)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, text)


def _in_cache(fingerprint: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "passed" / f"{digest[:32]}.json"
