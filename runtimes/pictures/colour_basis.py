"""A model's colours: found once on the photographs that come along, and kept beside the model, or in the cache."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
from pathlib import Path

import cv2
import numpy as np

from brixel_edge.errors import SpecError
from brixel_edge.image.colours import ColourBasis, basis_from_maps
from brixel_edge.machine.arrays import DAMAGED
from brixel_edge.machine.cache import cache_folder
from brixel_edge.machine.files import write_atomically
from brixel_edge.model.bundle import COLOURS_NAME
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.runtimes.model import Model
from brixel_edge.runtimes.sources.demo import FOLDER, PHOTOGRAPHS

_LOG = logging.getLogger(__name__)
_VERSION = 1
# What a first run may spend on it; at least two photographs are taken, however slow the model is.
_SECONDS, _LEAST = 5.0, 2


def colour_basis_of(model: Model) -> ColourBasis | None:
    """The colours of a model, the same in every process; runs it on a few photographs where nobody has yet.

    Returns:
        None where the model makes no difference between any of them.
    """
    places = basis_places(model)
    for place in places:
        if (stored := _read(place, model.feature_space)) is not None:
            return stored
    basis = _found(model)
    if basis.is_flat:
        return None
    for place in places:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            _write(place, basis, model.feature_space)
            break
    return basis


def basis_places(model: Model) -> list[Path]:
    """Where the basis may lie, best first: the model directory, and for bare graphs and read-only ones the cache."""
    digest = model.feature_space.digests[0].partition(":")[2]
    places = [cache_folder() / "colours" / f"{digest[:32]}.npz"]
    return places if model.root is None else [model.root / COLOURS_NAME, *places]


def _found(model: Model) -> ColourBasis:
    maps = []
    start_s = time.monotonic()
    for name in PHOTOGRAPHS:
        if (photograph := cv2.imread(str(FOLDER / name), cv2.IMREAD_COLOR)) is None:
            continue
        # Each is another picture than the one before, which maps that are used again must not be of.
        fitted = model.prepare(np.asarray(photograph, np.uint8))
        maps.append(model.features(fitted, t_capture_s=start_s, is_after_gap=True).values)
        if _LEAST <= len(maps) < len(PHOTOGRAPHS) and time.monotonic() - start_s > _SECONDS:
            _LOG.warning("%s is slow: its colours are those of %d photographs", model.name, len(maps))
            break
    h, w = model.spec.grid
    return basis_from_maps(maps or [np.zeros((h, w, model.spec.dim), np.float32)])


def _write(place: Path, basis: ColourBasis, space: FeatureSpace) -> None:
    head = json.dumps({"version": _VERSION, "digests": space.digests})
    content = io.BytesIO()
    np.savez(
        content,
        head=np.frombuffer(head.encode(), np.uint8),
        mean=basis.mean,
        directions=basis.directions,
        limits=basis.limits,
    )
    write_atomically(place, content.getbuffer())


def _read(place: Path, space: FeatureSpace) -> ColourBasis | None:
    """None where there is none, or one that is damaged or another model's; it is then found anew."""
    try:
        with place.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            if head["version"] != _VERSION or set(head["digests"]).isdisjoint(space.digests):
                return None
            basis = ColourBasis(mean=arrays["mean"], directions=arrays["directions"], limits=arrays["limits"])
    except (*DAMAGED, SpecError):
        return None
    return basis if len(basis.mean) == space.dim else None
