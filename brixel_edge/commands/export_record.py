"""What both roads of brixel-export leave in writing: facts by file, versions of the tools, the report of a failure."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from brixel_edge.errors import BuildError, ParityError
from brixel_edge.export.facts import FileFacts
from brixel_edge.model.bundle import write_failure
from brixel_edge.model.receipt_sections import Attempt, Failure, Lowering, Wanted
from brixel_edge.model.spec import ModelSpec

TOOLS = (
    "brixel-edge",
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxsim",
    "onnxruntime",
    "openvino",
    "numpy",
    "opencv-python-headless",
)


def section(facts: Mapping[str, FileFacts], name: str) -> dict[str, Any]:
    """One kind of fact by file, where a file has it."""
    return {file: value for file, entry in facts.items() if (value := getattr(entry, name)) is not None}


def lowering_of(attempt: Attempt) -> Lowering:
    """The way that was tried, without what came of it."""
    return Lowering(precision=attempt.precision, sampler=attempt.sampler, islands=attempt.islands)


def tool_versions() -> dict[str, str]:
    """Versions of what made the artefacts."""
    versions = {"python": platform.python_version()}
    for name in TOOLS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@contextmanager
def failure_left(
    out: Path, spec: ModelSpec, wanted: Wanted, attempts: Sequence[Attempt], tools: dict[str, str]
) -> Iterator[None]:
    """Leave `failed.json` where the block finds nothing that can be built, or nothing that is right.

    Args:
        out: the model directory.
        spec: of the model.
        wanted: what was asked for.
        attempts: what was tried; the block may add to it.
        tools: versions of what made the artefacts.
    """
    try:
        yield
    except (BuildError, ParityError) as error:
        failure = Failure(error=str(error), requested=wanted, spec=spec, attempts=tuple(attempts), tools=tools)
        write_failure(out, failure)
        raise
