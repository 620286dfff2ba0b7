"""The evaluation of DAVIS: masks handed on through its videos, scored object by object; nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from brixel_edge.evaluation.costs import milliseconds
from brixel_edge.evaluation.fitting import own_share, shown
from brixel_edge.evaluation.kinds import feature_kinds
from brixel_edge.evaluation.layouts.files import read_picture
from brixel_edge.evaluation.metrics import Scores
from brixel_edge.evaluation.objects import ObjectScore, score_objects, summary
from brixel_edge.evaluation.propagation import propagate
from brixel_edge.evaluation.protocol import Protocol
from brixel_edge.evaluation.results import record_of
from brixel_edge.evaluation.rows import by_source, row_of
from brixel_edge.evaluation.samples import Video
from brixel_edge.evaluation.settings import EvalSettings
from brixel_edge.evaluation.sources import FeatureKind
from brixel_edge.evaluation.tasks import open_videos
from brixel_edge.training.processes import Processes


class Propagation:
    """An evaluation of videos.

    Args:
        settings: of the evaluation.
        protocol: whose kernel makes pictures small.
        processes: that share the videos.
        device: where cells are compared.
    """

    def __init__(self, settings: EvalSettings, protocol: Protocol, processes: Processes, device: torch.device) -> None:
        self._settings, self._protocol, self._processes, self._device = settings, protocol, processes, device
        self._videos = open_videos(settings.data)[: settings.limit]

    def record(self) -> dict[str, Any]:
        """Everything, in order."""
        size, kernel = self._settings.view, self._protocol.kernel
        frame = read_picture(self._videos[0].frames[0])
        view = size.of((frame.shape[0], frame.shape[1]))
        kinds = feature_kinds(self._settings, self._device, view)
        try:
            times = milliseconds(kinds, frame, view, kernel)
            rows = [row_of(kind, view, times[kind.name], [self._scored(kind)]) for kind in kinds]
        finally:
            for source, _ in by_source(kinds):
                source.close()
        metric = VideoMetric()
        counts = {"train": 0, "test": len(self._videos)}
        facts = {"probe": "none", "view": list(view)}
        return record_of(self._settings, self._protocol, metric, rows, counts, self._processes.world, facts)

    def _scored(self, kind: FeatureKind) -> Scores:
        own = own_share(len(self._videos), self._processes)
        scores: list[tuple[int, list[ObjectScore]]] = []
        for index in shown(own, f"videos, {kind.name}", self._processes):
            scores.append((index, self._of_video(self._videos[index], kind)))
        gathered = sorted(entry for share in self._processes.gather(scores) for entry in share)
        return Scores(values=summary([score for _, entries in gathered for score in entries]))

    def _of_video(self, video: Video, kind: FeatureKind) -> list[ObjectScore]:
        predicted, true = propagate(video, kind, self._settings.view, self._protocol.kernel, self._device)
        return score_objects(video.name, predicted, true)


@dataclass(frozen=True, kw_only=True)
class VideoMetric:
    """Names of DAVIS's scores."""

    main: str = "j_and_f"
    is_higher_better: bool = True
