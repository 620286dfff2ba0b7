"""A model on a source: one FeatureMap after the other, the newest frame of a camera, every frame of a file."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from brixel_edge.errors import BundleError
from brixel_edge.image.fit import NOTABLE_DISTORTION, FittedImage, distortion
from brixel_edge.machine.memory import MIB
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.spec import ModelSpec
from brixel_edge.runtimes.model import Model
from brixel_edge.runtimes.sources.frames import Frame, FrameSource
from brixel_edge.runtimes.sources.pacing import PacedSource
from brixel_edge.runtimes.sources.recording import RecordingSource
from brixel_edge.runtimes.stream.frame_queue import Arrival, Counters
from brixel_edge.runtimes.stream.policies import Policy
from brixel_edge.runtimes.stream.reader import FrameReader, take_from
from brixel_edge.runtimes.stream.state import State
from brixel_edge.runtimes.stream.timing import StageTimes

_LOG = logging.getLogger(__name__)
# Two frames of 720p: enough to keep decoding and inference apart, little beside a model.
QUEUE_BYTES = 8 * MIB
# How long readers inside a driver are waited for; Ctrl-C in a user's loop shall end it within a second.
_GRACE_S = 0.4
# Of several sources, the worst one's state is that of the stream.
SEVERITY = (
    State.ENDED, State.RUNNING, State.OPENING, State.DEGRADED, State.STALLED, State.RECONNECTING, State.FAILED,
)  # fmt: skip


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


def check_recording(source: RecordingSource, model: Model) -> None:
    """Refuse features that are of another model: of another spec, or of other weights.

    Raises:
        BundleError: they are; the message names both.
    """
    recorded = source.recording.model
    if recorded.spec.digest != model.spec.digest:
        raise BundleError(
            f"{source.recording.path} was recorded with {recorded.name}, whose spec ({recorded.spec.digest[:12]}) is "
            f"not that of {model.name} ({model.spec.digest[:12]}); replay it with the model that it was recorded with"
        )
    if not recorded.feature_space.is_that_of(model.feature_space):
        raise BundleError(
            f"{source.recording.path} was recorded with {recorded.feature_space}, whose weights are not those of "
            f"{model.feature_space}; replay it with the model that it was recorded with"
        )


def _paced(source: FrameSource) -> FrameSource:
    """A file at its own pace; what is live has one, and so have a program's own frames."""
    return source if source.is_live or source.fps is None else PacedSource(source)


class Stream:
    """Iterate over it for results; close it, or use it in a `with`. Owns the sources, not the model.

    Several sources take turns at the model: none waits for more than one frame of each of the others.

    Args:
        model: stays open.
        sources: one or several; each is read and closed by a thread of the stream.
        queue_bytes: bound on decoded frames that wait, where every one is used; of all sources together.
        policy: which frames are used; None takes that of each source's kind.
        names: of the sources, in their maps and in `health`; None takes their descriptions.
        keeps_frames: whether features carry their frame, which needs memory where nobody looks at it.

    Raises:
        BundleError: a recording of another model; the sources are closed.
    """

    def __init__(
        self,
        model: Model,
        sources: FrameSource | Sequence[FrameSource],
        queue_bytes: int = QUEUE_BYTES,
        policy: Policy | None = None,
        names: Sequence[str] | None = None,
        *,
        keeps_frames: bool = True,
    ) -> None:
        self._model, self._keeps_frames = model, keeps_frames
        self._has_checked_aspect = False
        given = list(sources) if isinstance(sources, Sequence) else [sources]
        self.sources = [_paced(source) if policy is not None and not policy.keeps_all else source for source in given]
        self._check_recordings()
        changed = threading.Condition()
        self.readers: list[FrameReader[FittedImage | None]] = [
            FrameReader(
                source, self._prepare, queue_bytes // len(self.sources), policy,
                name=names[number] if names else None, changed=changed,
            )
            for number, source in enumerate(self.sources)
        ]  # fmt: skip

    def __iter__(self) -> Iterator[StreamResult]:
        """Results until the last source ends; one that fails before is warned of, and raised then.

        Raises:
            SourceError: a camera or stream was lost for good.
        """
        first = 0
        while (taken := take_from(self.readers, first)) is not None:
            number, arrival = taken
            first = number + 1
            yield self._result(arrival, self.readers[number].name)

    @property
    def description(self) -> str:
        """What the sources turned out to be."""
        return ", ".join(source.description for source in self.sources)

    @property
    def counters(self) -> Counters:
        """The counts of all sources."""
        return sum((reader.counters for reader in self.readers), Counters())

    def health(self) -> dict[str, Any]:
        """The state of each source and the counts of all, as plain JSON values."""
        sources = [reader.health() for reader in self.readers]
        worst = max((source["state"] for source in sources), key=[state.value for state in SEVERITY].index)
        return {"state": worst, **dataclasses.asdict(self.counters), "sources": sources}

    def interrupt(self) -> None:
        """Make waiting reads return soon."""
        for source in self.sources:
            source.interrupt()

    def _check_recordings(self) -> None:
        for source in self.sources:
            if isinstance(source, RecordingSource):
                try:
                    check_recording(source, self._model)
                except BundleError:
                    for other in self.sources:
                        other.close()
                    raise

    def _prepare(self, frame: Frame) -> tuple[FittedImage | None, int]:
        if frame.recorded is not None:
            return None, frame.recorded.values.nbytes
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

    def _replayed(self, frame: Frame, recorded: FeatureMap) -> StreamResult:
        """What was recorded, as it was; the times are those of reading it."""
        features = recorded if self._keeps_frames else dataclasses.replace(recorded, frame_bgr=None)
        total_s = time.monotonic() - frame.t_capture_s
        wait_s = max(0.0, total_s - frame.capture_s)
        times = StageTimes(
            capture_s=frame.capture_s, wait_s=wait_s, preprocess_s=0.0, infer_s=0.0, total_s=total_s
        )  # fmt: skip
        return StreamResult(features=features, times=times, t_media_s=frame.t_media_s, name=frame.name)

    def _result(self, arrival: Arrival[FittedImage | None], source: str) -> StreamResult:
        frame, fitted, preprocess_s = arrival.frame, arrival.prepared, arrival.preprocess_s
        if frame.recorded is not None:
            return self._replayed(frame, frame.recorded)
        start = time.monotonic()
        if fitted is None:
            self._mention_distortion(frame)
            fitted = self._model.prepare(frame.image)
            preprocess_s = time.monotonic() - start
        infer_start = time.monotonic()
        features = self._model.features(
            fitted,
            t_capture_s=frame.t_capture_s,
            frame_index=frame.index,
            is_after_gap=frame.is_after_gap,
            frame_bgr=frame.image if self._keeps_frames else None,
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
        features = dataclasses.replace(features, t_utc_s=frame.t_utc_s, t_stream_s=frame.t_stream_s, source=source)
        return StreamResult(features=features, times=times, t_media_s=frame.t_media_s, name=frame.name)

    def close(self) -> None:
        """Stop reading and let go of the sources."""
        self.interrupt()
        deadline_s = time.monotonic() + _GRACE_S
        for reader in self.readers:
            reader.close(max(0.0, deadline_s - time.monotonic()))

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
