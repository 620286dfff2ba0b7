"""What brixel-run was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from brixel_edge.image.fit import Fit
from brixel_edge.runtimes.asking.prototypes import Prototypes
from brixel_edge.runtimes.asking.requests import Point
from brixel_edge.runtimes.pictures.targets import Saving
from brixel_edge.runtimes.preview.address import PreviewAddress
from brixel_edge.runtimes.runtime import OpenVinoPrecision
from brixel_edge.runtimes.stream.policies import Policy


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """A run.

    Attributes:
        model: model directory or .onnx file; None is the built-in default.
        sources: see `brixel_edge.runtimes.sources.opening`.
        policy: which frames are used; None takes that of each source's kind.
        backend: see `open_model`; as are the next four.
        precision: which graph of a model directory.
        openvino_precision: auto, f32 or bf16.
        threads: of CPU backends.
        fit: of frames of another aspect.
        budget_bytes: memory that the process may take; None for no bound.
        backbone_every: the backbone runs on every so many-th frame, the adapter on each; None runs the one graph.
        headless: show nothing.
        saving: what is kept of the results, and where.
        duration_s: stop after so long [s].
        frames: stop after so many.
        reconnect_s: how long a lost camera is tried again [s].
        queries: points into the first frame.
        prototypes: to begin with.
        save_prototypes: file that they are kept in.
        preview: where a page of the run is served; None for none.
    """

    model: str | None = None
    sources: tuple[str, ...] = ("demo:",)
    policy: Policy | None = None
    backend: str = "auto"
    precision: str | None = None
    openvino_precision: OpenVinoPrecision = "auto"
    threads: int | None = None
    fit: Fit = "stretch"
    budget_bytes: int | None = None
    backbone_every: int | None = None
    headless: bool = False
    saving: Saving = field(default_factory=Saving)
    duration_s: float | None = None
    frames: int | None = None
    reconnect_s: float = 30.0
    queries: tuple[Point, ...] = ()
    prototypes: Prototypes | None = None
    save_prototypes: Path | None = None
    preview: PreviewAddress | None = None

    @property
    def has_pictures(self) -> bool:
        """Whether results are painted."""
        return self.saving.keeps_pictures or self.preview is not None or not self.headless

    @property
    def has_video(self) -> bool:
        """Whether they go into a window or a video."""
        return self.saving.keeps_video or not self.headless

    @property
    def keeps_frames(self) -> bool:
        """Whether results need their frame."""
        return self.has_pictures or self.saving.keeps_features
