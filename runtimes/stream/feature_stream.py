"""`brixel_edge.stream`: a model on a source in one call."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brixel_edge.image.fit import Fit
from brixel_edge.machine.addresses import label_from_address
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.economy import require_one_source
from brixel_edge.runtimes.engines import AUTO
from brixel_edge.runtimes.model import Model, open_model
from brixel_edge.runtimes.runtime import OpenVinoPrecision
from brixel_edge.runtimes.sources.frames import FrameSource
from brixel_edge.runtimes.sources.iterables import Frames, IterableSource
from brixel_edge.runtimes.sources.opening import open_source
from brixel_edge.runtimes.stream.policies import Policy, parse_policy
from brixel_edge.runtimes.stream.stream import Stream
from brixel_edge.runtimes.stream.waiting import result_of


class FeatureStream(Iterator[FeatureMap]):
    """The maps of a stream, one after the other; opened at the first one, closed at the end or by `close`."""

    def __init__(
        self, sources: list[str | Frames], model: dict[str, Any], policy: Policy | None, reconnect_s: float
    ) -> None:
        self._sources, self._model = sources, model
        self._policy, self._reconnect_s = policy, reconnect_s
        self._stream: Stream | None = None
        self._maps = self._run()

    def _run(self) -> Generator[FeatureMap, None, None]:
        # The sources first: whether they are there shows at once, and a model may take seconds.
        opened = result_of(lambda: open_sources(self._sources, self._reconnect_s))
        try:
            model = result_of(lambda: _warm_model(self._model))
        except BaseException:
            opened.close()
            raise
        with model, Stream(model, opened.sources, policy=self._policy, names=opened.names) as self._stream:
            for result in self._stream:
                yield result.features

    def __next__(self) -> FeatureMap:
        """The features of the next frame."""
        return next(self._maps)

    def health(self) -> dict[str, Any]:
        """State, counts and ages of the sources as plain JSON values; from any thread."""
        return {"state": "opening"} if self._stream is None else self._stream.health()

    def close(self) -> None:
        """Let go of the sources and the model."""
        self._maps.close()


@dataclass(frozen=True, kw_only=True)
class OpenSources:
    """What was opened for one stream.

    Attributes:
        sources: in the order in which they were named.
        names: of them, without passwords; no two are equal.
    """

    sources: list[FrameSource]
    names: list[str]

    def close(self) -> None:
        """Close them all, where no stream does."""
        for source in self.sources:
            source.close()


def open_sources(sources: list[Any], reconnect_s: float) -> OpenSources:
    """Open each; none stays open where one fails.

    Args:
        sources: strings, see `open_source`, or frames, see `IterableSource`.
        reconnect_s: how long a lost camera is tried again [s].

    Raises:
        BrixelError: as `open_source`.
    """
    opened = OpenSources(sources=[], names=[])
    try:
        for source in sources:
            opened.sources.append(
                open_source(source, reconnect_s) if isinstance(source, str) else IterableSource(source)
            )
    except BaseException:
        opened.close()
        raise
    labels = [
        label_from_address(text) if isinstance(text, str) else source.description
        for text, source in zip(sources, opened.sources, strict=True)
    ]
    opened.names.extend(
        label if labels.count(label) == 1 else f"{label} #{number}" for number, label in enumerate(labels)
    )
    return opened


def _warm_model(arguments: dict[str, Any]) -> Model:
    model = open_model(**arguments)
    try:
        model.warm_up()
    except BaseException:
        model.close()
        raise
    return model


def _named_sources(source: str | Path | int | Sequence[str | Path | int] | Frames) -> list[Any]:
    """Each by its string, or a program's own frames."""
    given = source if isinstance(source, list) and source else [source]
    if all(isinstance(one, (str, Path, int)) and not isinstance(one, bool) for one in given):
        return [str(one) for one in given]
    return [source]


def stream(
    path: str | Path | None = None,
    source: str | Path | int | Sequence[str | Path | int] | Frames = "demo:",
    *,
    policy: str | None = None,
    backend: str = AUTO,
    fit: Fit = "stretch",
    threads: int | None = None,
    precision: str | None = None,
    openvino_precision: OpenVinoPrecision = "auto",
    reconnect_s: float = 30.0,
    backbone_every: int | None = None,
) -> FeatureStream:
    """Open a model and a source, and go.

    Each map carries its frame as `frame_bgr`. A camera gives its newest frame whenever you ask for the next map; a
    file gives every frame. Stop by leaving the loop: the camera is let go when the generator is closed.

    Args:
        path: model directory or .onnx file; None is the built-in default.
        source: camera (0, `/dev/video0`), URL (`rtsp://...`), video file, folder or glob of images, `demo:`,
            `test:clock`; a list of these, whose frames take turns; or your own frames, as an iterable or a
            function without arguments.
        policy: `latest`, `every` or `max-age=MS`; None takes the newest of the last second of what is live, else all.
        backend: as `open_model`.
        fit: as `open_model`.
        threads: as `open_model`.
        precision: as `open_model`.
        openvino_precision: as `open_model`.
        reconnect_s: how long a lost camera is tried again [s].
        backbone_every: as `open_model`; of one source.

    Returns:
        an iterator over the features of one frame each, with `health()` and `close()`.

    Raises:
        SpecError: no such policy, or several sources with `backbone_every`; at the first map: no source.
        SourceError: at the first map: the camera does not open; later: it was lost for good.
        BundleError: at the first map: no such model, or a file that is none of the above.
        BackendMissing: at the first map: a backend that is not installed.
    """
    sources = _named_sources(source)
    if backbone_every is not None:
        require_one_source(len(sources))
    model = {
        "path": path, "backend": backend, "fit": fit, "threads": threads, "precision": precision,
        "openvino_precision": openvino_precision, "backbone_every": backbone_every,
    }  # fmt: skip
    return FeatureStream(sources, model, parse_policy(policy) if policy else None, reconnect_s)
