"""Where the results of a run go: a window, a recording, both or nowhere; and where clicks into pictures lead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.image.colours import ColourBasis
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.spec import UNTRAINED_NOTICE
from brixel_edge.runtimes.asking.asking import Answer, Asking
from brixel_edge.runtimes.asking.requests import Choose, Forget, Point, Request, Show
from brixel_edge.runtimes.model import Model
from brixel_edge.runtimes.pictures.events import Click, WindowEvent
from brixel_edge.runtimes.pictures.layers import frame_point
from brixel_edge.runtimes.pictures.painter import Painter, captioned
from brixel_edge.runtimes.pictures.recorder import Recorder, open_recorder
from brixel_edge.runtimes.pictures.targets import Saving
from brixel_edge.runtimes.pictures.window import Window
from brixel_edge.runtimes.pictures.window_process import open_viewer
from brixel_edge.runtimes.preview.server import Preview
from brixel_edge.runtimes.recordings.facts import RecordedModel
from brixel_edge.runtimes.recordings.recorder import FeatureRecorder, open_feature_recorder

WINDOW_HELP = "click: left on a thing, right where it is not; n next thing, c forget it, h colours or heat map, q ends"
_KEYS: dict[str, Request] = {"n": Choose(name=None), "c": Forget(), "h": Show()}


@dataclass(kw_only=True)
class _Shown:
    """The newest result, into which clicks go."""

    features: FeatureMap
    facts: str
    fps: float
    is_painted: bool = False


class Output:
    """Paints results, shows and keeps the pictures. For the main thread; close it.

    Args:
        model: named in the caption.
        window: None for none.
        recorder: of pictures; None for none.
        asking: what is looked for in each frame.
        feature_recorder: None for none.
        preview: the page; None for none. Whoever opened it closes it.
        basis: of the model's colours; None takes that of the first map.
    """

    def __init__(
        self,
        model: Model,
        window: Window | None,
        recorder: Recorder | None,
        asking: Asking | None = None,
        feature_recorder: FeatureRecorder | None = None,
        preview: Preview | None = None,
        basis: ColourBasis | None = None,
    ) -> None:
        self._window, self._recorder, self._preview = window, recorder, preview
        self._feature_recorder, self._basis = feature_recorder, basis
        self._asking = asking or Asking()
        self._painter: Painter | None = None
        self._last: _Shown | None = None
        h, w = model.spec.grid
        what = f"{h}x{w}x{model.spec.dim}" if model.head is None else f"{h}x{w}, {model.head.label}"
        self._facts = f"{model.name}  {what}  {model.backend}"
        self._notice = None if model.spec.trained else UNTRAINED_NOTICE

    @property
    def has_window(self) -> bool:
        """Whether pictures are shown."""
        return self._window is not None and not self._window.is_lost

    @property
    def is_needed(self) -> bool:
        """Whether anybody looks at results, or something is looked for in them."""
        others = self._recorder, self._feature_recorder, self._preview
        return self.has_window or any(place is not None for place in others) or self._asking.is_needed

    @property
    def was_closed(self) -> bool:
        """Whether the user closed the window."""
        return self._window is not None and not self._window.is_open

    @property
    def saved(self) -> str | None:
        """What was written where."""
        recorder = self._recorder or self._feature_recorder
        return recorder.description if recorder is not None else None

    def put(
        self, features: FeatureMap, t_media_s: float, name: str | None, fps: float = 0.0, infer_ms: float = 0.0
    ) -> None:
        """Keep one result, look for what was asked for, paint it and hand the picture on.

        Args:
            features: with their frame, where somebody looks at pictures.
            t_media_s: the frame's place on the source's own time line [s].
            name: of the file, where each frame is one.
            fps: of the last second, for the caption; 0 is not known yet.
            infer_ms: of this frame, for the caption.

        Raises:
            SpecError: a query of the command line outside of the frame.
        """
        if self._feature_recorder is not None:
            self._feature_recorder.write(features, name)
        if self._last is not None:
            self._asking.take_requests(self._last.features)
        if self._painter is None:
            # Images have little in common with the one before; frames have much.
            self._painter = Painter(self._basis, is_steady=name is None)
        speed = f"  {fps:.1f} fps  {infer_ms:.0f} ms" if fps else ""
        self._last = _Shown(features=features, facts=self._facts + speed, fps=fps)
        picture = self._paint(self._asking.answer(features), is_kept=self._recorder is not None)
        if self._recorder is not None and picture is not None:
            self._recorder.write(self._captioned(picture), t_media_s, name)

    def poll(self) -> None:
        """Let window and page answer; a click is seen at once, also where no further frame comes."""
        if self._window is not None:
            self._window.poll()
            for event in self._window.take_events():
                self._hear(event)
        if self._last is None:
            return
        is_asked = self._asking.has_requests
        self._asking.take_requests(self._last.features)
        if is_asked or (self._preview is not None and self._preview.is_watched and not self._last.is_painted):
            self._paint(self._asking.answer(self._last.features, is_counted=False))

    def _paint(self, answer: Answer, *, is_kept: bool = False) -> NDArray[np.uint8] | None:
        """Paint the last frame for those who look; None where nobody does."""
        assert self._last is not None and self._painter is not None
        window = self._window if self.has_window and self._window is not None and self._window.is_open else None
        watched = self._preview if self._preview is not None and self._preview.is_watched else None
        if self._preview is not None:
            self._preview.site.note(answer, self._last.features, self._last.fps, self._painter.depth_range_m)
        if window is None and watched is None and not is_kept:
            return None
        panes = self._painter.panes(self._last.features, answer)
        self._last.is_painted = True
        if window is not None:
            window.show(self._captioned(panes))
        if watched is not None:
            watched.site.slot.put(panes)
        return panes

    def _captioned(self, panes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The last frame's panes with what is said under them."""
        assert self._last is not None and self._painter is not None
        legends = self._painter.legends(self._last.features, panes.shape[1])
        return captioned(panes, self._last.facts, self._notice, legends)

    def _hear(self, event: WindowEvent) -> None:
        if not isinstance(event, Click):
            if event.key in _KEYS:
                self._asking.request(_KEYS[event.key])
            return
        place = frame_point(event.x, event.y, self._last.features.frame_size) if self._last is not None else None
        if place is not None:
            self._asking.request(Point(x=place[0], y=place[1], is_negative=event.is_negative))

    def close(self) -> None:
        """Finish the recording, then remove the window."""
        try:
            for recorder in (self._recorder, self._feature_recorder):
                if recorder is not None:
                    recorder.close()
        finally:
            if self._window is not None:
                self._window.close()


def open_output(
    model: Model,
    fps: float | None,
    headless: bool,
    saving: Saving,
    say: Callable[[str], None],
    asking: Asking | None = None,
    preview: Preview | None = None,
    basis: ColourBasis | None = None,
) -> Output:
    """Open what the user asked for, and what the machine has.

    Args:
        model: for the captions.
        fps: of the source.
        headless: no window.
        saving: what to keep.
        say: told where there is nothing to show pictures on.
        asking: what is looked for in each frame.
        preview: the page, if one is served.
        basis: of the model's colours; None takes that of the first map.

    Raises:
        BundleError: nothing can be written there.
        SpecError: prototypes of another model, or features are needed and not there.
    """
    if not model.spec.has_features and asking is not None and asking.is_needed:
        raise SpecError(f"{model.name} gives its head's answer alone, no features; export it with --keep-features")
    if asking is not None:
        asking.prototypes.check(model.feature_space)
    recorder: Recorder | None = None
    feature_recorder: FeatureRecorder | None = None
    if saving.path is not None and saving.keeps_features:
        feature_recorder = open_feature_recorder(saving.path, _recorded_model(model), saving.precision)
    elif saving.path is not None:
        recorder = open_recorder(saving.path, fps)
    window = None if headless else open_viewer(f"brixel-run: {model.name}")
    if window is not None:
        say(WINDOW_HELP)
    elif saving.path is None and preview is None and not headless:
        say("no display here, so nothing is shown; --preview serves a page, --save out.mp4 keeps the pictures")
    return Output(model, window, recorder, asking, feature_recorder, preview, basis)


def _recorded_model(model: Model) -> RecordedModel:
    return RecordedModel(
        feature_space=model.feature_space,
        spec=model.spec,
        engine=model.path.name,
        precision=model.precision,
        backend=model.backend,
    )
