"""The demo's picture: photographs that no training saw, their features in PCA colours, and a thing found by a point."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.image.captions import caption_strip
from brixel_edge.image.colours import fixed_colours
from brixel_edge.machine.files import replacing
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.spec import ModelSpec
from brixel_edge.proof.photographs import bundled_photographs
from brixel_edge.runtimes.asking.matches import automatic_threshold, match_from_cosines
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.pictures.layers import colours_on_frame
from brixel_edge.runtimes.pictures.overlays import heat_map

WIDTH_PX = 400  # of a panel
# Photographs with what is pointed at there, as parts of width and height.
POINTED_AT = {"astronaut.png": (0.28, 0.62), "coffee.png": (0.62, 0.72), "rocket.jpg": (0.49, 0.45)}


def write_still(models: dict[str, Path], path: Path) -> None:
    """One PNG, a row for each photograph: itself with a point, the backbone alone, the model, what is like the point.

    Args:
        models: directories of the `default` model and of its `baseline`.
        path: where to.
    """
    frames = {source.name: _read(source) for source in bundled_photographs(tuple(POINTED_AT))}
    maps, specs = {}, {}
    for name, root in models.items():
        with open_model(root) as model:
            maps[name] = {photograph: model(frame) for photograph, frame in frames.items()}
            specs[name] = model.spec
    rows = [_captions(specs)]
    rows += [
        _row(frame, {name: found[photograph] for name, found in maps.items()}, POINTED_AT[photograph])
        for photograph, frame in frames.items()
    ]
    with replacing(path) as temporary:
        cv2.imwrite(str(temporary), np.vstack(rows))


def _read(source: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(source)), np.uint8)


def _captions(specs: dict[str, ModelSpec]) -> NDArray[np.uint8]:
    grids = {name: " x ".join(map(str, spec.grid)) for name, spec in specs.items()}
    texts = (
        "photograph, and a point",
        f"backbone alone: {grids['baseline']} features",
        f"brixel: {grids['default']} features",
        "what is like the point",
    )
    return np.hstack([caption_strip(text, WIDTH_PX) for text in texts])


def _row(frame: NDArray[np.uint8], maps: dict[str, FeatureMap], point: tuple[float, float]) -> NDArray[np.uint8]:
    """(height, 4 * WIDTH_PX, 3) BGR; both maps in the colours of the model's own."""
    height = round(frame.shape[0] * WIDTH_PX / frame.shape[1])
    shown = np.asarray(cv2.resize(frame, (WIDTH_PX, height), interpolation=cv2.INTER_AREA), np.uint8)
    colours = fixed_colours([maps["default"].values])
    painted = [
        colours_on_frame(np.ascontiguousarray(colours(maps[name].values)[..., ::-1]), maps[name], (height, WIDTH_PX))
        for name in ("baseline", "default")
    ]
    heat = _heat(shown, maps["default"], (point[0] * frame.shape[1], point[1] * frame.shape[0]))
    pointed = shown.copy()
    for colour, width in (((255, 255, 255), 4), ((0, 0, 255), 2)):
        cv2.circle(pointed, (round(point[0] * WIDTH_PX), round(point[1] * height)), 7, colour, width, cv2.LINE_AA)
    return np.hstack([pointed, *painted, heat])


def _heat(shown: NDArray[np.uint8], features: FeatureMap, point: tuple[float, float]) -> NDArray[np.uint8]:
    similarity = features.similarity(features.at(x=point[0], y=point[1]))
    threshold = automatic_threshold(similarity)
    match = match_from_cosines("thing", features, similarity[None], similarity[None][:0], threshold)
    return heat_map(shown, features, match)
