"""How pictures and labels are brought to the probe, and how the probe is trained.

`labels`, ours: the whole picture, by the kernel of training and device; the probe is trained on pixels drawn from the
labels at their own size and scored on all of them there. `authors`: as their scripts do (reference: their repository at
f19a3c7 and 2653fc7), for comparison; pictures and labels are made small first, so that the scores are those of a
smaller task, and classes that do not occur count as failures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import DataError
from brixel_edge.evaluation.samples import Label, Sample
from brixel_edge.evaluation.settings import EvalSettings, InputSize
from brixel_edge.evaluation.sources import Kernel, Size
from brixel_edge.evaluation.tasks import Task

Pixels = TypeVar("Pixels", NDArray[np.uint8], Label)
POINTS, POINTS_A_STEP = 8192, 2048  # of each training picture


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What differs between protocols.

    Attributes:
        name: of the protocol.
        kernel: that makes pictures small.
        crops_square: keep only the centre square of picture and label.
        shrinks_labels: labels are brought to the size of the student's view, by the nearest pixel.
        points: pixels of each picture that the probe is trained on; None takes all.
        points_a_step: of those, how many at once; the next ones in each epoch.
        standardises: features are centred and scaled, by the training set's mean and deviation of each channel.
        epochs: over the training pictures.
        batch: pictures of a step.
        learning_rate: of AdamW, its first where `is_annealed`.
        weight_decay: of AdamW.
        is_annealed: the rate falls to 0 along a cosine.
        depth_loss: `log`: mean absolute difference of log depth; `silog`: their scale-tolerant one.
        has_faults: scores are counted as their scripts count.
    """

    name: str
    kernel: Kernel = "bicubic"
    crops_square: bool = False
    shrinks_labels: bool = False
    points: int | None = POINTS
    points_a_step: int | None = POINTS_A_STEP
    standardises: bool = True
    epochs: int = 30
    batch: int = 16
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    is_annealed: bool = True
    depth_loss: Literal["log", "silog"] = "log"
    has_faults: bool = False


def protocol_of(settings: EvalSettings, task: Task) -> Protocol:
    """The protocol of an evaluation, with what its settings override."""
    chosen = Protocol(name="labels")
    if settings.protocol == "authors":
        chosen = Protocol(
            name="authors",
            kernel="bilinear",
            crops_square=task.authors_crop,
            shrinks_labels=True,
            points=None,
            points_a_step=None,
            standardises=False,
            epochs=task.authors_epochs or chosen.epochs,
            batch=task.authors_batch,
            learning_rate=1e-3,
            weight_decay=1e-9,
            is_annealed=False,
            depth_loss="silog",
            has_faults=True,
        )
    overrides = {"epochs": settings.epochs, "batch": settings.batch, "learning_rate": settings.learning_rate}
    return replace(chosen, **{name: value for name, value in overrides.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A picture as the protocol wants it.

    Attributes:
        frame: (H, W, 3) uint8 BGR, still large.
        view: the student's view of it [px].
        label: at the size where it is used.
    """

    frame: NDArray[np.uint8]
    view: Size
    label: Label


def prepared(sample: Sample, size: InputSize, protocol: Protocol) -> Prepared:
    """Read a picture and its label.

    Raises:
        DataError: they cannot be read, or are of different shapes.
    """
    frame, label = sample.read_frame(), sample.read_label()
    if frame.shape[:2] != label.shape[:2]:
        raise DataError(f"{sample.name}: the picture is {frame.shape[:2]}, its label {label.shape[:2]} (height, width)")
    if protocol.crops_square:
        frame = _square(frame)
    view = size.of((frame.shape[0], frame.shape[1]))
    return Prepared(frame=frame, view=view, label=_ready(label, size, protocol))


def label_of(sample: Sample, size: InputSize, protocol: Protocol) -> Label:
    """The label alone, as `prepared` gives it.

    Raises:
        DataError: it cannot be read.
    """
    return _ready(sample.read_label(), size, protocol)


def _ready(label: Label, size: InputSize, protocol: Protocol) -> Label:
    if protocol.crops_square:
        label = _square(label)
    if not protocol.shrinks_labels:
        return label
    height, width = size.of((label.shape[0], label.shape[1]))
    # Of the pixel that the centre falls in, as Pillow's nearest.
    return cast(Label, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _square(values: Pixels) -> Pixels:
    side = min(values.shape[:2])
    top, left = ((length - side) // 2 for length in values.shape[:2])
    return cast(Pixels, np.ascontiguousarray(values[top : top + side, left : left + side]))
