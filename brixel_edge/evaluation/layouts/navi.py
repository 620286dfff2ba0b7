"""NAVI as its publishers lay it out: depth of single objects, and normals derived from it."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import DataError
from brixel_edge.evaluation.layouts.files import read_picture, read_uint16, require
from brixel_edge.evaluation.layouts.geometry import MM, labelled
from brixel_edge.evaluation.layouts.normals import Intrinsics
from brixel_edge.evaluation.samples import Kind, LabelledData, Sample

RANGE_M = (0.05, 10.0)
# The files hold the inverse of the depth, in units of 1 / (10 * 65535) per millimetre.
DISPARITY_M = 10 * 65535 / 1000
AUTHORS_SEED, AUTHORS_TEST_SHARE = 42, 0.1


def navi(root: Path, kind: Kind, *, as_authors: bool = False) -> LabelledData:
    """NAVI's wild sets, in the split that its annotations name; only the object, by its mask, has labels.

    Args:
        root: `navi_v1` or `navi_v1.5`.
        kind: depth or normals.
        as_authors: with a tenth of every object's pictures, drawn at random, as the test; and the files' inverse depth
            read as if it were depth in millimetres, which is their fault.

    Raises:
        DataError: no annotations.
    """
    found = sorted(root.glob("*/wild_set/annotations.json"))
    if not found:
        raise DataError(f"{root} must hold OBJECT/wild_set/annotations.json with images, depth and masks beside it")
    objects = [
        [(entry["split"], _sample(path.parent, entry, kind, as_authors)) for entry in _entries(path)] for path in found
    ]
    train, test = _authors_split(objects) if as_authors else _own_split(objects)
    return LabelledData(kind=kind, train=train, test=test, depth_range_m=RANGE_M)


def _own_split(objects: list[list[tuple[str, Sample]]]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    every = [entry for entries in objects for entry in entries]
    train, test = (tuple(sample for split, sample in every if split == name) for name in ("train", "val"))
    return train, test


def _authors_split(objects: list[list[tuple[str, Sample]]]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """A tenth of each object, at least one picture; one generator goes through the objects in order."""
    generator, train, test = random.Random(AUTHORS_SEED), [], []
    for entries in objects:
        samples = sorted((sample for _, sample in entries), key=lambda sample: sample.name)
        generator.shuffle(samples)
        count = max(1, round(AUTHORS_TEST_SHARE * len(samples)))
        test += samples[:count]
        train += samples[count:]
    return tuple(train), tuple(test)


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for entry in entries:
            _ = entry["filename"], entry["split"], float(entry["camera"]["focal_length"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not NAVI's annotations ({error!r})") from error
    return entries


def _sample(folder: Path, entry: dict[str, Any], kind: Kind, as_authors: bool) -> Sample:
    name, stem = entry["filename"], Path(entry["filename"]).stem
    picture = require(folder / "images" / name, "which the annotations name")
    files = [require(folder / part / f"{stem}.png", f"of {name}") for part in ("depth", "masks")]
    focal = float(entry["camera"]["focal_length"])
    return labelled(
        f"{folder.parent.name}/{stem}",
        kind,
        partial(read_picture, picture),
        partial(_depth, *files, as_authors=as_authors),
        partial(_centred_camera, focal),
    )


def _centred_camera(focal: float, size: tuple[int, int]) -> Intrinsics:
    return Intrinsics(fx=focal, fy=focal, cx=size[1] // 2, cy=size[0] // 2)


def _depth(path: Path, mask: Path, *, as_authors: bool) -> NDArray[np.float32]:
    stored = read_uint16(path).astype(np.float32)
    is_object = read_picture(mask)[..., 0] > 0
    if stored.shape != is_object.shape:
        raise DataError(f"{path} is {stored.shape}, its mask {is_object.shape}; the files are of different pictures")
    depth = stored * MM if as_authors else _metres(stored)
    near, far = RANGE_M
    return np.where(is_object & (depth > near) & (depth < far), depth, np.float32(0))


def _metres(disparity: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(DISPARITY_M, disparity, out=np.zeros_like(disparity), where=disparity > 0)
