"""Where the pictures of a run go: a window, a recording, both or nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from brixel_edge.image.colours import PcaColours
from brixel_edge.model.features import FeatureMap
from brixel_edge.model.spec import UNTRAINED_NOTICE
from brixel_edge.runtimes.model import Model
from brixel_edge.runtimes.pictures.painter import Painter
from brixel_edge.runtimes.pictures.recorder import Recorder, open_recorder
from brixel_edge.runtimes.pictures.window import Window, open_window


class Output:
    """Paints results, shows and keeps the pictures. For the main thread; close it.

    Args:
        model: named in the caption.
        window: None for none.
        recorder: None for none.
    """

    def __init__(self, model: Model, window: Window | None, recorder: Recorder | None) -> None:
        self._window, self._recorder = window, recorder
        self._painter: Painter | None = None
        h, w = model.spec.grid
        self._facts = f"{model.name}  {h}x{w}x{model.spec.dim}  {model.backend}"
        self._notice = None if model.spec.trained else UNTRAINED_NOTICE

    @property
    def has_window(self) -> bool:
        """Whether pictures are shown."""
        return self._window is not None

    @property
    def is_needed(self) -> bool:
        """Whether anybody looks at pictures."""
        return self._window is not None or self._recorder is not None

    @property
    def was_closed(self) -> bool:
        """Whether the user closed the window."""
        return self._window is not None and not self._window.is_open

    @property
    def saved(self) -> str | None:
        """What was written where."""
        return self._recorder.description if self._recorder is not None else None

    def put(self, features: FeatureMap, t_media_s: float, name: str | None, speed: str = "") -> None:
        """Paint one result and hand the picture on.

        Args:
            features: with their frame.
            t_media_s: the frame's place on the source's own time line [s].
            name: of the file, where each frame is one.
            speed: for the caption.
        """
        if self._painter is None:
            # Images have little in common with the one before; frames have much.
            self._painter = Painter(PcaColours(refresh_every=1) if name else PcaColours())
        picture = self._painter(features, self._facts + speed, self._notice)
        if self._window is not None and self._window.is_open:
            self._window.show(picture)
        if self._recorder is not None:
            self._recorder.write(picture, t_media_s, name)

    def poll(self) -> None:
        """Let the window answer."""
        if self._window is not None:
            self._window.poll()

    def close(self) -> None:
        """Finish the recording, then remove the window."""
        try:
            if self._recorder is not None:
                self._recorder.close()
        finally:
            if self._window is not None:
                self._window.close()


def open_output(
    model: Model, fps: float | None, headless: bool, save: Path | None, say: Callable[[str], None]
) -> Output:
    """Open what the user asked for, and what the machine has.

    Args:
        model: for the captions.
        fps: of the source.
        headless: no window.
        save: where to keep the pictures; None keeps none.
        say: told where there is nothing to show pictures on.

    Raises:
        BundleError: nothing can be written at `save`.
    """
    recorder = open_recorder(save, fps) if save is not None else None
    window = None if headless else open_window(f"brixel-run: {model.name}")
    if window is None and recorder is None and not headless:
        say("no display here, so nothing is shown; --save out.mp4 keeps the pictures")
    return Output(model, window, recorder)
