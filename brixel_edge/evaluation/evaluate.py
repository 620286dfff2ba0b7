"""An evaluation from settings to the record of its results.

Data set -> kinds of feature -> features, once for each source -> for each kind and seed a probe, trained and scored.
Several processes share the pictures; the first one returns the record, the others the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from brixel_edge.errors import DataError, SpecError
from brixel_edge.evaluation.costs import milliseconds
from brixel_edge.evaluation.fitting import Target, TrainingSet, own_share, shown, target_of, trained_probe
from brixel_edge.evaluation.heads import Material, head_of_probe, made_head, parse_components
from brixel_edge.evaluation.kinds import feature_kinds
from brixel_edge.evaluation.metrics import Metric, Scores, metric_of
from brixel_edge.evaluation.probe import Probe, prediction, save_probe
from brixel_edge.evaluation.protocol import Protocol, label_of, prepared, protocol_of
from brixel_edge.evaluation.results import record_of
from brixel_edge.evaluation.rows import by_source, row_of
from brixel_edge.evaluation.samples import LabelledData, Sample
from brixel_edge.evaluation.settings import EvalSettings
from brixel_edge.evaluation.sources import FeatureKind, FeatureSource
from brixel_edge.evaluation.store import FeatureStore, check_store_fits, map_bytes
from brixel_edge.evaluation.tasks import open_labelled, task_of
from brixel_edge.evaluation.videos import Propagation
from brixel_edge.model.head import Head
from brixel_edge.model.json_form import fields_to_json
from brixel_edge.network.head_file import save_head
from brixel_edge.training.processes import Processes, joined_processes

logger = logging.getLogger(__name__)

OUTPUTS = {"depth": 1, "normals": 3}
# Pictures whose sizes stand for all of a split, when the features are sized.
SIZED_PICTURES = 8


def evaluate(settings: EvalSettings) -> dict[str, Any]:
    """Run an evaluation; the record of `results.record_of`.

    Raises:
        SpecError: settings that cannot be.
        DataError: a data set that is not laid out as it should be, or features that do not fit.
        BundleError: weights or a model that cannot be read.
    """
    device = torch.device(_device_name(settings.device))
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with joined_processes(device.type) as processes:
        if device.type == "cuda":
            device = torch.device("cuda", processes.local_rank)
        task = task_of(settings.task)
        protocol = protocol_of(settings, task)
        if task.kind == "video":
            return Propagation(settings, protocol, processes, device).record()
        return _Probing(settings, protocol, processes, device).record()


def _device_name(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


@dataclass(frozen=True, kw_only=True)
class _Split:
    """Pictures of one split that this process has features of."""

    samples: Sequence[Sample]
    store: FeatureStore


class _Probing:
    """The evaluation of a task with labelled pictures."""

    def __init__(self, settings: EvalSettings, protocol: Protocol, processes: Processes, device: torch.device) -> None:
        self._settings, self._protocol, self._processes, self._device = settings, protocol, processes, device
        data = open_labelled(settings.task, settings.data, as_authors=protocol.has_faults)
        self._data: LabelledData = data.limited(settings.limit)
        self._metric: Metric = metric_of(self._data, has_authors_faults=protocol.has_faults)
        self._head: Head | None = None

    def record(self) -> dict[str, Any]:
        """Everything, in order."""
        example = prepared(self._data.train[0], self._settings.view, self._protocol)
        kinds = feature_kinds(self._settings, self._device, example.view)
        try:
            self._check_head(kinds)
            times = milliseconds(kinds, example.frame, example.view, self._protocol.kernel)
            self._check_fits(kinds)
            targets = self._targets()
            rows = []
            for source, sharing in by_source(kinds):
                train = self._features(self._data.train, source, "features, training")
                test = self._features(self._data.test, source, "features, test")
                for kind in sharing:
                    scores = [self._scored(kind, train, test, targets, seed) for seed in range(self._settings.seeds)]
                    rows.append(row_of(kind, example.view, times[kind.name], scores))
        finally:
            for source, _ in by_source(kinds):
                source.close()
        counts = {"train": len(self._data.train), "test": len(self._data.test)}
        facts = {"probe": "light" if self._settings.is_probe_light else "linear", "view": list(example.view)}
        if self._head is not None:
            facts["head"] = {"file": str(self._settings.save_head), **fields_to_json(self._head.spec)}
        rows.sort(key=lambda row: [kind.name for kind in kinds].index(row.name))
        return record_of(self._settings, self._protocol, self._metric, rows, counts, self._processes.world, facts)

    def _check_head(self, kinds: Sequence[FeatureKind]) -> None:
        """Refuse a head that could not be saved, before features are computed.

        Raises:
            SpecError: of several rows, or of features without a model.
        """
        if self._settings.save_head is None:
            return
        if len(kinds) > 1:
            names = ", ".join(kind.name for kind in kinds)
            raise SpecError(f"--save-head is for one kind of features, here are {names}; name one with --features")
        origin = self._material(kinds[0], None, {}).require_origin()
        components = parse_components(self._settings.head_kind)
        if components is not None and components > origin.dim:
            raise SpecError(
                f"--head-kind pca-{components}: there are {origin.dim} channels; give pca-1 to pca-{origin.dim}"
            )

    def _material(self, kind: FeatureKind, store: FeatureStore | None, targets: dict[int, Target]) -> Material:
        return Material(data=self._data, kind=kind, store=store, targets=targets, processes=self._processes)

    def _check_fits(self, kinds: Sequence[FeatureKind]) -> None:
        """On disk all sources' features stay, in memory one source's at a time."""
        views = {
            name: [
                prepared(sample, self._settings.view, self._protocol).view
                for sample in samples[:: max(1, len(samples) // SIZED_PICTURES)]
            ]
            for name, samples in (("train", self._data.train), ("test", self._data.test))
        }
        needed = []
        for source, _ in by_source(kinds):
            total = 0
            for name, samples in (("train", self._data.train), ("test", self._data.test)):
                total += len(samples) * max(map_bytes(source.shape(view)) for view in views[name])
            needed.append(total)
        folder, share = self._settings.cache, self._processes.world
        check_store_fits(folder, max(needed) // share if folder is None else sum(needed), self._settings.cache_budget)

    def _features(self, samples: Sequence[Sample], source: FeatureSource, what: str) -> _Split:
        store = FeatureStore(source, self._protocol.kernel, self._settings.cache)
        for index in shown(own_share(len(samples), self._processes), what, self._processes):
            ready = prepared(samples[index], self._settings.view, self._protocol)
            store.add(index, ready.frame, ready.view)
        return _Split(samples=samples, store=store)

    def _targets(self) -> list[dict[int, Target]]:
        """For each seed, what this process's training pictures teach; labels are read once."""
        targets: list[dict[int, Target]] = [{} for _ in range(self._settings.seeds)]
        samples = self._data.train
        for index in shown(own_share(len(samples), self._processes), "labels", self._processes):
            label = label_of(samples[index], self._settings.view, self._protocol)
            for seed, entries in enumerate(targets):
                if seed and self._protocol.points is None:
                    entries[index] = targets[0][index]
                else:
                    draw = seed * len(samples) + index
                    entries[index] = target_of(self._data.kind, label, self._protocol.points, draw)
        return targets

    def _scored(
        self, kind: FeatureKind, train: _Split, test: _Split, targets: list[dict[int, Target]], seed: int
    ) -> Scores:
        outputs = OUTPUTS.get(self._data.kind, len(self._data.classes))
        dim = kind.seen(train.store[self._processes.rank]).shape[1] if targets[seed] else None
        dim = next(size for size in self._processes.gather(dim) if size is not None)
        probe = trained_probe(
            TrainingSet(count=len(train.samples), targets=targets[seed], store=train.store),
            kind,
            Probe(dim, outputs, self._data.kind, is_light=self._settings.is_probe_light, seed=seed),
            self._protocol,
            self._processes,
            device=self._device,
            seed=seed,
        )
        scores = self._score(probe, kind, test)
        if seed == 0:
            self._keep(probe, kind, scores, self._material(kind, train.store, targets[seed]))
        return scores

    def _score(self, probe: Probe, kind: FeatureKind, test: _Split) -> Scores:
        tally = self._metric.nothing()
        own = own_share(len(test.samples), self._processes)
        for index in shown(own, f"score of {kind.name}", self._processes):
            label = label_of(test.samples[index], self._settings.view, self._protocol)
            given = prediction(
                probe,
                kind.seen(test.store[index].to(self._device)),
                (label.shape[0], label.shape[1]),
                mixes_probabilities=kind.mixes_probabilities,
            )
            tally = tally.plus(self._metric.tally(index, given, label))
        total, *others = self._processes.gather(tally)
        for other in others:
            total = total.plus(other)
        if not total.counts.any():
            raise DataError("not one pixel of the test pictures is labelled; check the labels")
        return self._metric.scores(total)

    def _keep(self, probe: Probe, kind: FeatureKind, scores: Scores, material: Material) -> None:
        """Write the first seed's probe, as a head where it is one, and the head that was asked for."""
        facts = {
            "task": self._settings.task,
            "classes": list(self._data.classes),
            "features": kind.name,
            "scores": {name: value for name, value in scores.values.items() if value == value},
        }
        if self._settings.save_head is not None:
            self._head = made_head(self._settings.head_kind, probe, material)
            # Scores are the probe's; components and prototypes have none.
            told = facts if self._settings.head_kind == "probe" else {**facts, "scores": {}}
            if self._processes.is_first:
                save_head(self._settings.save_head, self._head, told)
        if self._settings.out is None or not self._processes.is_first:
            return
        path = probe_path(self._settings.out, kind.name)
        if material.makes_heads and probe.is_linear and probe.kind != "normals":
            save_head(path, head_of_probe(probe, material), facts)
        else:
            save_probe(path, probe, facts)


def probe_path(out: Path, name: str) -> Path:
    """Where a row's probe is kept."""
    return out / "probes" / f"{name.replace(':', '-').replace('/', '-')}.safetensors"
