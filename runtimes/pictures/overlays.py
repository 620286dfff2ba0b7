"""What was asked for, over the frame: masks and boxes with their scores, and the heat map of one thing."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.asking.matches import Match
from brixel_edge.runtimes.pictures.layers import colours_on_frame

# BGR; apart for people who do not tell red from green (Okabe and Ito's palette).
_COLOURS = ((115, 158, 0), (0, 159, 230), (233, 180, 86), (167, 121, 204), (66, 228, 240), (0, 94, 213))
_TINT = 0.35
# How much of the heat map's colour covers the grey frame at full similarity, and how fast less of it gives way to it.
_COVER, _POWER = 0.92, 1.5
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5


def draw_matches(
    frame: NDArray[np.uint8], features: FeatureMap, matches: dict[str, Match], current: str | None = None
) -> None:
    """Draw boxes, names and scores into a frame as shown, and the mask of the current thing.

    Args:
        frame: (H, W, 3) BGR, drawn into.
        features: say where cells lie.
        matches: by name.
        current: whose mask is drawn.
    """
    size = (frame.shape[0], frame.shape[1])
    for number, match in enumerate(matches.values()):
        colour = _COLOURS[number % len(_COLOURS)]
        if match.name == current:
            _draw_mask(frame, features, match, colour)
        if match.box is not None:
            scale = [shown / real for shown, real in zip(size, features.frame_size, strict=True)]
            left, top, right, bottom = (
                round(side * scale[axis]) for side, axis in zip(match.box, (1, 0, 1, 0), strict=True)
            )
            cv2.rectangle(frame, (left, top), (right - 1, bottom - 1), colour, 2, cv2.LINE_AA)
            _draw_label(frame, f"{match.name} {match.score:.2f}", (left, top), colour)


def heat_map(frame: NDArray[np.uint8], features: FeatureMap, match: Match) -> NDArray[np.uint8]:
    """Similarity as colour over the grey frame; the threshold lies in the middle of the scale.

    Args:
        frame: (H, W, 3) BGR as shown.
        features: say where cells lie.
        match: whose similarity is painted.

    Returns:
        (H, W, 3) BGR; black where the graph did not see the frame.
    """
    size = (frame.shape[0], frame.shape[1])
    half = max(1 - match.threshold, 1e-3)
    share = np.clip((match.similarity - match.threshold) / (2 * half) + 0.5, 0, 1)
    levels = (np.nan_to_num(share) * 255).astype(np.uint8)
    colours = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), np.uint8)
    layers = colours_on_frame(np.dstack([colours, levels, np.full_like(levels, 255)]), features, size)
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.float32)
    cover = _COVER * (layers[..., 3:4].astype(np.float32) / 255) ** _POWER
    blended = grey * (0.7 * (1 - cover)) + layers[..., :3] * cover
    blended[layers[..., 4] == 0] = 0
    return blended.astype(np.uint8)


def _draw_mask(frame: NDArray[np.uint8], features: FeatureMap, match: Match, colour: tuple[int, int, int]) -> None:
    if not match.mask.any():
        return
    shown = colours_on_frame(match.mask[..., None].astype(np.uint8), features, (frame.shape[0], frame.shape[1]))
    inside = shown[..., 0] > 0
    frame[inside] = (frame[inside] * (1 - _TINT) + np.array(colour) * _TINT).astype(np.uint8)
    outlines = cv2.findContours(np.ascontiguousarray(shown[..., 0]), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0]
    cv2.drawContours(frame, outlines, -1, colour, 1, cv2.LINE_AA)


def _draw_label(frame: NDArray[np.uint8], text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """On a field of the colour, above the corner where there is room; OpenCV's font has ASCII only."""
    text = text.encode("ascii", "replace").decode()
    (width, height), base = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    left = max(0, min(corner[0], frame.shape[1] - width - 6))
    bottom = corner[1] if corner[1] >= height + base + 4 else corner[1] + height + base + 4
    cv2.rectangle(frame, (left, bottom - height - base - 4), (left + width + 6, bottom), colour, cv2.FILLED)
    cv2.putText(frame, text, (left + 3, bottom - base - 1), _FONT, _FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
