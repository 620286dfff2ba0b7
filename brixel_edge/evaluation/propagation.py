"""Object masks handed on from frame to frame by the likeness of features; nothing is trained.

Every cell takes the labels of the cells that it is most like, among those near its place in the first frame and in the
last few. As in DINO's evaluation (five likest, softmax at a temperature of 0.1, seven frames), but the neighbourhood is
a part of the picture's height, so that coarse and fine grids look equally far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from brixel_edge.evaluation.layouts.files import read_indices, read_picture
from brixel_edge.evaluation.objects import NO_OBJECT
from brixel_edge.evaluation.probe import enlarged_strips
from brixel_edge.evaluation.samples import Video
from brixel_edge.evaluation.settings import InputSize
from brixel_edge.evaluation.sources import FeatureKind, Kernel

FRAMES, LIKEST, TEMPERATURE = 7, 5, 0.1
REACH = 0.2  # of the picture's height


def propagate(
    video: Video, kind: FeatureKind, size: InputSize, kernel: Kernel, device: torch.device
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Predict a video's masks from its first.

    Args:
        video: with its masks, of which only the first is used.
        kind: of features.
        size: of the student's view.
        kernel: that makes pictures small.
        device: where cells are compared.

    Returns:
        predicted and true object numbers, (H, W) each, of every frame.
    """
    true = [read_indices(path) for path in video.masks]
    first = np.where(true[0] == NO_OBJECT, 0, true[0])
    count = int(first.max()) + 1
    predicted = [first.astype(np.uint8)]
    features = _unit_map(kind, read_picture(video.frames[0]), size, kernel, device)
    anchor = (features, _shares(first, count, features.shape[1:]).to(device))
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=FRAMES)
    for path, mask in zip(video.frames[1:], true[1:], strict=True):
        features = _unit_map(kind, read_picture(path), size, kernel, device)
        shares = handed_on(features, [anchor, *recent])
        recent.append((features, shares))
        strips = [strip.argmax(0).to(torch.uint8) for _, strip in enlarged_strips(shares, mask.shape)]
        predicted.append(torch.cat(strips).cpu().numpy())
    return predicted, true


def _unit_map(
    kind: FeatureKind, frame: NDArray[np.uint8], size: InputSize, kernel: Kernel, device: torch.device
) -> Tensor:
    """(D, h, w), every cell of length 1."""
    stored = kind.source.map_of(frame, size.of((frame.shape[0], frame.shape[1])), kernel)
    return functional.normalize(kind.seen(stored.to(device))[0], dim=0)


def _shares(mask: NDArray[np.uint8], count: int, grid: Sequence[int]) -> Tensor:
    """(count, h, w): what part of each cell every object covers."""
    layers = [
        cv2.resize((mask == number).astype(np.float32), (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
        for number in range(count)
    ]
    return torch.from_numpy(np.stack(layers))


def handed_on(features: Tensor, context: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Labels of a frame from those of others.

    Args:
        features: (D, h, w) of the frame, unit cells.
        context: (D, h, w) unit cells and (K, h, w) labels of the frames looked at.

    Returns:
        (K, h, w) labels.
    """
    _, height, width = features.shape
    reach = max(1, round(REACH * height))
    columns = torch.arange(width, device=features.device)
    is_far = (columns[:, None] - columns).abs() > reach  # (w, w): a cell's column against another's
    labels = torch.empty(context[0][1].shape[0], height, width, device=features.device)
    for row in range(height):
        near = slice(max(0, row - reach), row + reach + 1)
        rows = features[:, near].shape[1]
        queries = features[:, row].T
        likeness = [
            (queries @ other[:, near].flatten(1)).masked_fill(is_far.repeat(1, rows), -2) for other, _ in context
        ]
        values = torch.cat([shares[:, near].flatten(1) for _, shares in context], dim=1)
        best, places = torch.cat(likeness, dim=1).topk(min(LIKEST, values.shape[1]), dim=1)
        # Cells out of reach can be among the likest only on grids with fewer than five in reach.
        weights = (best / TEMPERATURE).masked_fill(best < -1.5, -torch.inf).softmax(1)
        labels[:, row] = (values[:, places] * weights).sum(-1)
    return labels
