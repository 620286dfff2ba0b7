"""A model on a source: one FeatureMap after the other, the newest frame of a camera, every frame of a file."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from brixel_edge.image.fit import NOTABLE_DISTORTION, Fit, FittedImage, distortion
from brixel_edge.machine.memory import MIB
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.spec import ModelSpec
from brixel_edge.runtimes.engines import AUTO
from brixel_edge.runtimes.model import Model, open_model
from brixel_edge.runtimes.runtime import OpenVinoPrecision
from brixel_edge.runtimes.sources.frames import Frame, FrameSource
from brixel_edge.runtimes.sources.opening import open_source
from brixel_edge.runtimes.stream.reader import Arrival, FrameReader
from brixel_edge.runtimes.stream.timing import StageTimes
from brixel_edge.runtimes.stream.waiting import result_of

_LOG = logging.getLogger(__name__)
# Two frames of 720p: enough to keep decoding and inference apart, little beside a model.
QUEUE_BYTES = 8 * MIB
# How long a reader inside a driver is waited for; Ctrl-C in a user's loop shall end it within a second.
_GRACE_S = 0.4


@dataclass(frozen=True, kw_only=True)
class StreamResult:
    """What a stream makes of one frame.

    Attributes:
        features: of the frame, which they carry.
        times: what each stage took.
        t_media_s: the frame's place on the source's own time line [s].
        name: of the file, where each frame is one.
    """

    features: FeatureMap
    times: StageTimes
    t_media_s: float
    name: str | None


def _distortion_remedy(frame: Frame, spec: ModelSpec, factor: float) -> str:
    """What stretching does, and what to type instead."""
    height, width = frame.image.shape[:2]
    image = spec.image
    step = 2 * spec.patch_px
    fitting = max(step, step * round(image.height * width / height / step))
    return (
        f"frames of {width}x{height} are stretched by {factor:.2f} to {image.width}x{image.height} (width x height); "
        f"keep the aspect with --fit crop, --fit pad or a model of brixel-export --size {image.height}x{fitting}"
    )


class Stream:
    """Iterate over it for results; close it, or use it in a `with`. Owns the source, not the model.

    Args:
        model: stays open.
        source: read and closed by a thread of the stream.
        queue_bytes: bound on decoded frames of a file that wait.
    """

    def __init__(self, model: Model, source: FrameSource, queue_bytes: int = QUEUE_BYTES) -> None:
        self._model = model
        self._has_checked_aspect = False
        self.source = source
        self.reader: FrameReader[FittedImage] = FrameReader(source, self._prepare, queue_bytes)

    def __iter__(self) -> Iterator[StreamResult]:
        """Results until the source ends.

        Raises:
            SourceError: a camera or stream was lost for good.
        """
        while (arrival := self.reader.take()) is not None:
            yield self._result(arrival)

    def _prepare(self, frame: Frame) -> tuple[FittedImage, int]:
        self._mention_distortion(frame)
        fitted = self._model.prepare(frame.image)
        return fitted, fitted.image.nbytes

    def _mention_distortion(self, frame: Frame) -> None:
        if self._has_checked_aspect:
            return
        self._has_checked_aspect = True
        factor = distortion((frame.image.shape[0], frame.image.shape[1]), self._model.spec.image)
        if self._model.fit == "stretch" and factor > NOTABLE_DISTORTION:
            _LOG.warning("%s", _distortion_remedy(frame, self._model.spec, factor))

    def _result(self, arrival: Arrival[FittedImage]) -> StreamResult:
        frame, fitted, preprocess_s = arrival.frame, arrival.prepared, arrival.preprocess_s
        start = time.monotonic()
        if fitted is None:
            fitted, _ = self._prepare(frame)
            preprocess_s = time.monotonic() - start
        infer_start = time.monotonic()
        features = self._model.features(
            fitted,
            t_capture_s=frame.t_capture_s,
            frame_index=frame.index,
            is_after_gap=frame.is_after_gap,
            frame_bgr=frame.image,
        )
        end = time.monotonic()
        infer_s, total_s = end - infer_start, end - frame.t_capture_s
        times = StageTimes(
            capture_s=frame.capture_s,
            wait_s=max(0.0, total_s - frame.capture_s - preprocess_s - infer_s),
            preprocess_s=preprocess_s,
            infer_s=infer_s,
            total_s=total_s,
        )
        features = dataclasses.replace(features, t_utc_s=frame.t_utc_s, t_stream_s=frame.t_stream_s)
        return StreamResult(features=features, times=times, t_media_s=frame.t_media_s, name=frame.name)

    def close(self) -> None:
        """Stop reading and let go of the source."""
        self.reader.close(_GRACE_S)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _warm_model(
    path: str | Path | None,
    backend: str,
    fit: Fit,
    threads: int | None,
    precision: str | None,
    openvino_precision: OpenVinoPrecision,
) -> Model:
    model = open_model(path, backend, fit, threads, precision, openvino_precision)
    try:
        model.warm_up()
    except BaseException:
        model.close()
        raise
    return model


def stream(
    path: str | Path | None = None,
    source: str = "demo:",
    *,
    backend: str = AUTO,
    fit: Fit = "stretch",
    threads: int | None = None,
    precision: str | None = None,
    openvino_precision: OpenVinoPrecision = "auto",
    reconnect_s: float = 30.0,
) -> Iterator[FeatureMap]:
    """Open a model and a source, and go.

    Each map carries its frame as `frame_bgr`. A camera gives its newest frame whenever you ask for the next map; a
    file gives every frame. Stop by leaving the loop: the camera is let go when the generator is closed.

    Args:
        path: model directory or .onnx file; None is the built-in default.
        source: camera (`0`, `/dev/video0`), URL (`rtsp://...`), video file, folder or glob of images, `demo:`.
        backend: as `open_model`.
        fit: as `open_model`.
        threads: as `open_model`.
        precision: as `open_model`.
        openvino_precision: as `open_model`.
        reconnect_s: how long a lost camera is tried again [s].

    Yields:
        features of one frame.

    Raises:
        SourceError: the camera does not open, or was lost for good.
        BundleError: no such model, or a file that is none of the above.
        BackendMissing: a backend that is not installed.
    """
    # The source first: whether it is there shows at once, and a model may take seconds.
    frames = result_of(lambda: open_source(source, reconnect_s))
    try:
        model = result_of(lambda: _warm_model(path, backend, fit, threads, precision, openvino_precision))
    except BaseException:
        frames.close()
        raise
    with model, Stream(model, frames) as results:
        for result in results:
            yield result.features
