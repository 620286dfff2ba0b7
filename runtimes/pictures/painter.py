"""The picture of a result: the frame beside its feature map in colours, and a line that says what it is."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.image.captions import caption_strip
from brixel_edge.image.colours import PcaColours
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.asking.asking import Answer
from brixel_edge.runtimes.pictures.layers import colours_on_frame, pane_size
from brixel_edge.runtimes.pictures.overlays import draw_matches, heat_map


class Painter:
    """Paints the results of one stream, in order: the colours follow the stream."""

    def __init__(self, colours: PcaColours | None = None) -> None:
        self._colours = colours or PcaColours()

    def __call__(
        self, features: FeatureMap, facts: str, notice: str | None = None, answer: Answer | None = None
    ) -> NDArray[np.uint8]:
        """Paint one result.

        Args:
            features: with their frame.
            facts: to write under it: model, size, speed.
            notice: what a viewer must know, for instance that the weights are untrained; None for nothing.
            answer: what was found in the frame; None where nothing was asked.

        Returns:
            (H, W, 3) uint8 BGR; H and W even, and equal for frames of equal size.

        Raises:
            SpecError: features without their frame.
        """
        return captioned(self.panes(features, answer), facts, notice)

    def panes(self, features: FeatureMap, answer: Answer | None = None) -> NDArray[np.uint8]:
        """The frame, and its colours or heat map to the right of it, without captions; see `__call__`."""
        if features.frame_bgr is None:
            raise SpecError("these features do not carry their frame; give the frame to the model call")
        size = pane_size(features.frame_size)
        shown = cv2.resize(features.frame_bgr, (size[1], size[0]), interpolation=cv2.INTER_AREA)
        frame = np.asarray(shown, np.uint8)
        if answer is not None and answer.heat is not None:
            right = heat_map(frame, features, answer.heat)
        else:
            right = colours_on_frame(self._colours(features.values)[..., ::-1], features, size)
        if answer is not None and answer.matches:
            draw_matches(frame, features, answer.matches, answer.current)
        return np.hstack([frame, right])


def captioned(panes: NDArray[np.uint8], facts: str, notice: str | None = None) -> NDArray[np.uint8]:
    """Panes over their captions; arguments and result as `Painter.__call__`."""
    parts = [panes, caption_strip(facts, panes.shape[1])]
    return np.vstack(parts if notice is None else [*parts, caption_strip(notice, panes.shape[1], is_notice=True)])
