"""The `.prototypes` file: a NumPy .npz of all points and thresholds, with JSON beside them that says whose they are."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.machine.arrays import DAMAGED
from brixel_edge.machine.files import write_atomically
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.json_form import fields_from_json, fields_to_json
from brixel_edge.runtimes.asking.prototype import MOST_POINTS, Prototype

SUFFIX = ".prototypes"
FILE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What JSON says of a prototype; its points follow each other in the arrays."""

    name: str
    positive: int
    negative: int
    chosen_threshold: float | None


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The JSON of a file."""

    version: int
    feature_space: FeatureSpace
    prototypes: tuple[_Entry, ...]


def check_prototype_target(path: Path, *, is_replacing: bool = True) -> None:
    """Refuse what cannot be written, must not be overwritten, or nobody would know again.

    Raises:
        SpecError: another suffix.
        BundleError: a folder that is not there, or a file that is.
    """
    if path.suffix != SUFFIX:
        raise SpecError(f"{path} does not end in {SUFFIX}; call it {path.with_suffix(SUFFIX)}")
    if not path.parent.is_dir() or path.is_dir():
        raise BundleError(f"{path} cannot be written (no such folder, or one itself); choose another place")
    if path.exists() and not is_replacing:
        raise BundleError(f"{path} is there; choose another name, or --force replaces it")


def write_prototypes(path: Path, prototypes: Sequence[Prototype], space: FeatureSpace) -> None:
    """Write a file, whole or not at all.

    Raises:
        SpecError: a name with another suffix.
        BundleError: it cannot be written there.
    """
    check_prototype_target(path)
    entries = tuple(
        _Entry(
            name=one.name,
            positive=len(one.positive),
            negative=len(one.negative),
            chosen_threshold=one.chosen_threshold,
        )
        for one in prototypes
    )
    head = _Head(version=FILE_VERSION, feature_space=space, prototypes=entries)
    points = np.concatenate([part for one in prototypes for part in (one.positive, one.negative)])
    content = io.BytesIO()
    np.savez(
        content,
        head=np.frombuffer(json.dumps(fields_to_json(head)).encode(), np.uint8),
        points=points,
        automatic=np.concatenate([one.automatic for one in prototypes]),
    )
    try:
        write_atomically(path, content.getbuffer())
    except OSError as error:
        raise BundleError(f"{path} cannot be written ({error.strerror or error}); choose another place") from error


def read_prototypes(path: Path) -> tuple[list[Prototype], FeatureSpace]:
    """Read a file.

    Raises:
        BundleError: it is missing, damaged, of a later release, or no such file.
    """
    if not path.is_file():
        raise BundleError(f"no prototypes at {path}; save some with --save-prototypes, or Prototypes.save")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            record = json.loads(arrays["head"].tobytes())
            points, automatic = arrays["points"], arrays["automatic"]
        if record.get("version") != FILE_VERSION:
            raise BundleError(
                f"{path} has version {record.get('version')!r}, this release reads {FILE_VERSION}; update"
            )
        head = fields_from_json(_Head, record)
        return _prototypes(head, points, automatic), head.feature_space
    except (*DAMAGED, AttributeError) as error:
        if isinstance(error, BundleError) and str(path) in str(error):
            raise
        raise BundleError(f"{path} is not a readable {SUFFIX} file ({error}); point and save again") from error


def _prototypes(head: _Head, points: NDArray[np.float32], automatic: NDArray[np.float32]) -> list[Prototype]:
    """Cut the arrays up.

    Raises:
        ValueError: the arrays are not what the JSON says.
    """
    if len({entry.name for entry in head.prototypes}) < len(head.prototypes):
        raise ValueError("two prototypes have one name")
    counts = [count for entry in head.prototypes for count in (entry.positive, entry.negative)]
    if not 0 < sum(counts) <= MOST_POINTS:
        raise ValueError(f"it has {sum(counts)} points, and there may be 1 to {MOST_POINTS}")
    expected = (sum(counts), head.feature_space.dim)
    if points.shape != expected or points.dtype != np.float32:
        raise ValueError(f"points are {points.dtype} {points.shape} and not float32 {expected}")
    lengths = np.linalg.norm(points, axis=1)
    if min(counts[::2], default=0) < 1 or min(counts) < 0 or automatic.shape != (sum(counts[::2]),):
        raise ValueError("a prototype has no point, or a point no threshold")
    if not np.allclose(lengths, 1, atol=1e-3) or not (np.abs(automatic) <= 1).all():
        raise ValueError("a point or a threshold is damaged")
    parts = np.split(points, np.cumsum(counts)[:-1])
    thresholds = np.split(automatic.astype(np.float32), np.cumsum(counts[::2])[:-1])
    return [
        Prototype(
            name=entry.name,
            positive=parts[2 * number],
            negative=parts[2 * number + 1],
            automatic=thresholds[number],
            chosen_threshold=entry.chosen_threshold,
        )
        for number, entry in enumerate(head.prototypes)
    ]
