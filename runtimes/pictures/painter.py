"""The picture of a result: the frame beside its feature map or its head's answer in colours, and what that is."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.image.answers import AnswerColours
from brixel_edge.image.captions import caption_strip
from brixel_edge.image.colours import ColourBasis, PcaColours
from brixel_edge.image.legends import legend
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.asking.asking import Answer
from brixel_edge.runtimes.pictures.layers import colours_on_frame, pane_size
from brixel_edge.runtimes.pictures.overlays import draw_matches, heat_map


class Painter:
    """Paints the results of one stream, in order: the colours' range follows each of its sources.

    Args:
        basis: of the model's colours; None takes that of the first map.
        is_steady: False where each frame is a picture of its own; a head's colours are then found anew, too.
    """

    def __init__(self, basis: ColourBasis | None = None, *, is_steady: bool = True) -> None:
        self._new_colours = functools.partial(PcaColours, basis, is_steady=is_steady)
        self._colours: dict[str | None, PcaColours] = {}
        self._answers: AnswerColours | None = None
        self._is_steady = is_steady

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
        panes = self.panes(features, answer)
        return captioned(panes, facts, notice, self.legends(features, panes.shape[1]))

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
            right = colours_on_frame(self._coloured(features)[..., ::-1], features, size)
        if answer is not None and answer.matches:
            draw_matches(frame, features, answer.matches, answer.current)
        return np.hstack([frame, right])

    def _coloured(self, features: FeatureMap) -> NDArray[np.uint8]:
        """(h, w, 3) RGB of the cells: what a head says of them, or else their features."""
        if features.head is None or features.answer is None:
            colours = self._colours.setdefault(features.source, self._new_colours())
            t_s = features.t_capture_s if features.t_stream_s is None else features.t_stream_s
            return colours(features.values, t_s)
        if self._answers is None or not self._is_steady:
            self._answers = AnswerColours(features.head)
        return self._answers(features.answer)

    @property
    def depth_range_m(self) -> tuple[float, float] | None:
        """Nearest and farthest depth that has a colour of its own [m], of a depth head."""
        return None if self._answers is None else self._answers.depth_range_m

    def legends(self, features: FeatureMap, width: int) -> list[NDArray[np.uint8]]:
        """What stands under the panes of a head's answer, `width` wide: what its colours mean."""
        if features.head is None or features.answer is None:
            return []
        if features.head.has_classes:
            return [legend(features.head, features.answer, width)]
        limits = self.depth_range_m
        return [] if limits is None else [caption_strip(f"depth: red {limits[0]:.2f} m, blue {limits[1]:.2f} m", width)]


def captioned(
    panes: NDArray[np.uint8], facts: str, notice: str | None = None, legends: Sequence[NDArray[np.uint8]] = ()
) -> NDArray[np.uint8]:
    """Panes over their legends and captions; arguments and result as `Painter.__call__`."""
    parts = [panes, *legends, caption_strip(facts, panes.shape[1])]
    return np.vstack(parts if notice is None else [*parts, caption_strip(notice, panes.shape[1], is_notice=True)])
