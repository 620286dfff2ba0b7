"""What one image comes to: pixels in, messages out. Owns what is remembered from image to image."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from brixel_edge.image.colours import PcaColours
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.asking.matches import Match
from brixel_edge.runtimes.model import Model
from brixel_edge.runtimes.pictures.colour_basis import colour_basis_of
from brixel_edge.runtimes.ros.calibration import calibration_of_grid
from brixel_edge.runtimes.ros.images_in import age_ms
from brixel_edge.runtimes.ros.parameters import NodeParameters
from brixel_edge.runtimes.ros.pixels import bgr_from_image, image_from_array
from brixel_edge.runtimes.ros.queries import Queries
from brixel_edge.runtimes.ros.wire.messages import CameraInfo, FeatureMapMessage, Header, Image, Message, String

# What a node may publish. Those of the second line need something to look for.
OUTPUTS: dict[str, type[Message]] = {
    "preview": Image, "features": FeatureMapMessage, "camera_info": CameraInfo,
    "similarity": Image, "segments": Image, "matches": String,
}  # fmt: skip
ANSWERS = frozenset({"similarity", "segments", "matches"})
# Labels of segments are bytes; 0 is nothing.
_MOST_SEGMENTS = 255


class Answerer:
    """A model with the colours of its maps and the calibration of its camera.

    Attributes:
        calibration: of the camera, as it was last heard; None before.

    Args:
        model: opened; the answerer closes it.
    """

    def __init__(self, model: Model) -> None:
        self.calibration: CameraInfo | None = None
        self._model = model
        self._colours: PcaColours | None = None

    @property
    def feature_space(self) -> FeatureSpace:
        """Of the model."""
        return self._model.feature_space

    def messages(
        self, image: Image, now_ns: int, wanted: Collection[str], queries: Queries, parameters: NodeParameters
    ) -> dict[str, Message]:
        """The messages of one image, by output; each has its time and frame.

        Args:
            image: of the camera.
            now_ns: of the clock that stamped it.
            wanted: outputs to make.
            queries: what to look for.
            parameters: of the node.

        Raises:
            SpecError: the image, its calibration or a query cannot be read.
        """
        if not wanted:
            return {}
        taken_s = time.monotonic() - max(0.0, age_ms(image, now_ns)) / 1e3
        features = self._model(bgr_from_image(image), t_capture_s=taken_s)
        header = image.header
        found: dict[str, Message] = {}
        if "preview" in wanted:
            if self._colours is None:  # a first run on a model asks it for a few photographs
                self._colours = PcaColours(colour_basis_of(self._model))
            found["preview"] = image_from_array(self._colours(features.values, features.t_capture_s), header)
        if "features" in wanted:
            found["features"] = feature_message(features, header, parameters.feature_dtype)
        if ANSWERS & set(wanted):
            matches = queries.matches(features, parameters.threshold)
            found |= {name: message for name, message in answers(matches, header).items() if name in wanted}
        if "camera_info" in wanted and self.calibration is not None:
            found["camera_info"] = calibration_of_grid(
                self.calibration, header, features.grid, features.stride_px, features.offset_px, features.frame_size
            )
        return found

    def close(self) -> None:
        """Free the model."""
        self._model.close()


def answers(matches: Sequence[Match], header: Header) -> dict[str, Message]:
    """Where things are: as pictures of the grid, and as text."""
    highest = np.max([match.similarity for match in matches], axis=0)
    told = [{"name": match.name, "score": match.score, "point": match.point, "box": match.box} for match in matches]
    record = {"stamp_ns": header.stamp.ns, "frame_id": header.frame_id, "matches": told}
    return {
        "similarity": image_from_array(highest.astype(np.float32, copy=False), header),
        "segments": image_from_array(segments_of(matches), header),
        "matches": String(data=json.dumps(record)),
    }


def segments_of(matches: Sequence[Match]) -> NDArray[np.uint8]:
    """(h, w), 1 + number of the most similar thing of those that a cell belongs to; 0 where to none."""
    scores = np.stack([np.where(match.mask, match.similarity, -np.inf) for match in matches[:_MOST_SEGMENTS]])
    labels = scores.argmax(axis=0) + 1
    return np.where(np.isfinite(scores.max(axis=0)), labels, 0).astype(np.uint8)


def feature_message(features: FeatureMap, header: Header, dtype: str) -> FeatureMapMessage:
    """The map itself.

    Args:
        features: the map.
        header: time and frame of the image.
        dtype: `float16` or `float32`.
    """
    values = np.ascontiguousarray(features.values, np.dtype(dtype).newbyteorder("<"))
    h, w, channels = values.shape
    return FeatureMapMessage(
        header=header,
        model=str(features.feature_space or ""),
        dtype=dtype,
        height=h,
        width=w,
        channels=channels,
        frame_height=features.frame_size[0],
        frame_width=features.frame_size[1],
        stride_px=np.array(features.stride_px),
        offset_px=np.array(features.offset_px),
        data=values.view(np.uint8).reshape(-1),
    )
