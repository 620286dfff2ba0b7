"""What the colours of a head's answer mean, as the page writes it beside the picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from brixel_edge.model.features import FeatureMap
from brixel_edge.model.head import classes_of


def head_legend(features: FeatureMap, depth_range_m: tuple[float, float] | None) -> dict[str, Any] | None:
    """JSON values; None without a head.

    Args:
        features: of the newest frame.
        depth_range_m: nearest and farthest depth that has a colour of its own [m], of a depth head.

    Returns:
        label, kind, `classes`: those in the picture in their order, each with its colour and share of the cells, and
        `depth_m`: of red and blue.
    """
    head, answer = features.head, features.answer
    if head is None or answer is None:
        return None
    classes: list[dict[str, Any]] = []
    if head.has_classes:
        counts = np.bincount(classes_of(np.nan_to_num(answer)).ravel(), minlength=head.outputs)
        classes = [
            {
                "name": head.classes[number],
                "colour": "#{:02x}{:02x}{:02x}".format(*head.colours[number]),
                "share": round(float(counts[number] / counts.sum()), 3),
            }
            for number in np.flatnonzero(counts)
        ]
    depth_m = None if depth_range_m is None else [round(value, 2) for value in depth_range_m]
    return {"label": head.label, "kind": head.kind, "classes": classes, "depth_m": depth_m}
