"""From the settings to the rows of the result: which kinds of feature are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from brixel_edge.errors import SpecError
from brixel_edge.evaluation.settings import EvalSettings, Features
from brixel_edge.evaluation.sources import (
    EngineSource,
    FeatureKind,
    LastMap,
    Size,
    TorchSource,
    TwoScales,
    parse_engine,
    size_of_equal_cost,
)
from brixel_edge.export.graph.flops import gflop_of_engine
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.adapters import check_multiple
from brixel_edge.model.head_spec import FeatureOrigin
from brixel_edge.model.spec import AdapterKind
from brixel_edge.network.adapter import BrixelRefiner
from brixel_edge.network.backbone import Backbone, load_backbone
from brixel_edge.network.feature_origin import feature_origin_of
from brixel_edge.network.flops import count_gflop
from brixel_edge.network.official_weights import adapter_file
from brixel_edge.network.student import UPSCALE, Student, load_student
from brixel_edge.network.weights import read_adapter
from brixel_edge.network.weights_hash import weights_hash
from brixel_edge.runtimes.model import open_model

DEFAULT_FEATURES: tuple[Features, ...] = ("baseline", "native")
WITH_ADAPTER: tuple[Features, ...] = ("baseline", "brixel", "native")


@dataclass(frozen=True, kw_only=True)
class _Adapted:
    """A student, what to call it and what names its weights."""

    name: str
    student: Student
    identity: str


def feature_kinds(settings: EvalSettings, device: torch.device, view: Size) -> list[FeatureKind]:
    """The rows of the result, networks loaded.

    Args:
        settings: of the evaluation.
        device: for torch.
        view: the student's view of most pictures [px].

    Raises:
        SpecError: sizes or names that cannot be.
        BundleError: weights or a model that cannot be read.
    """
    if settings.is_model_directory:
        return _engines(settings)
    backbone = load_backbone(settings.model, settings.backbone_weights, tap_layers=settings.tap_layers)
    check_multiple(*view, backbone.spec.patch_px)
    students = [_adapted(backbone, path) for path in settings.adapters]
    if any(isinstance(entry.student.refiner, BrixelRefiner) for entry in students):
        check_multiple(*view, 2 * backbone.spec.patch_px)
    return _Loaded(settings.model, backbone, students, device, view).kinds(settings.features)


def _adapted(backbone: Backbone, path: str) -> _Adapted:
    """A student of an adapter file, which says itself what kind it is; the authors' files are the paper's kind."""
    file = Path(adapter_file(backbone.spec, path))
    _, metadata = read_adapter(file)
    kind = cast(AdapterKind, metadata.get("adapter", "brixel"))
    student = load_student(backbone, file, kind)
    return _Adapted(name=_name_of(file), student=student, identity=sha256_of(file)[:32])


def _name_of(path: Path) -> str:
    """`adapter.safetensors` is in every run's folder; then the folder tells more."""
    return path.parent.name if path.stem == "adapter" and path.parent.name else path.stem


class _Loaded:
    """A backbone and its students, from which kinds are made."""

    def __init__(
        self, name: str, backbone: Backbone, students: list[_Adapted], device: torch.device, view: Size
    ) -> None:
        self._name = name
        self._backbone, self._students, self._device, self._view = backbone, students, device, view
        self._digest = weights_hash(backbone) + f" taps {backbone.spec.tap_layers[-1]}"

    def kinds(self, names: tuple[Features, ...]) -> list[FeatureKind]:
        names = names or (WITH_ADAPTER if self._students else DEFAULT_FEATURES)
        plain = feature_origin_of(Student(self._backbone, None), self._name)
        coarse = self._source(LastMap(self._backbone), "last map", _times(1), plain)
        simple: dict[str, Callable[[], list[FeatureKind]]] = {
            "baseline": lambda: [FeatureKind(name="baseline", source=coarse, enlarge=UPSCALE)],
            "logits": lambda: [FeatureKind(name="logits", source=coarse)],
            "probabilities": lambda: [FeatureKind(name="probabilities", source=coarse, mixes_probabilities=True)],
            "native": lambda: [self._kind("native", LastMap(self._backbone), "last map", _times(UPSCALE), plain)],
            "s2": lambda: [self._kind("s2", TwoScales(self._backbone), "two scales", _times(2))],
            "brixel": lambda: [self._brixel(entry) for entry in self._students],
            "equal-cost": lambda: [self._equal_cost(entry, plain) for entry in self._students],
        }
        return [kind for name in dict.fromkeys(names) for kind in simple[name]()]

    def _source(
        self, module: nn.Module, what: str, sizes: Callable[[Size], Size], origin: FeatureOrigin | None
    ) -> TorchSource:
        spec = self._backbone.spec
        return TorchSource(
            module,
            mean=spec.mean,
            std=spec.std,
            sizes=sizes,
            identity=f"{what} of {self._digest}",
            device=self._device,
            origin=origin,
        )

    def _kind(
        self,
        name: str,
        module: nn.Module,
        what: str,
        sizes: Callable[[Size], Size],
        origin: FeatureOrigin | None = None,
    ) -> FeatureKind:
        return FeatureKind(name=name, source=self._source(module, what, sizes, origin))

    def _brixel(self, entry: _Adapted) -> FeatureKind:
        sizes = _times(entry.student.view_scale)
        origin = feature_origin_of(entry.student, self._name)
        return self._kind(f"brixel:{entry.name}", entry.student, f"adapter {entry.identity}", sizes, origin)

    def _equal_cost(self, entry: _Adapted, origin: FeatureOrigin) -> FeatureKind:
        module, view = LastMap(self._backbone), self._view

        def cost(size: Size) -> float:
            return count_gflop(module, torch.empty(1, 3, *size))

        scale = entry.student.view_scale
        budget = count_gflop(entry.student, torch.empty(1, 3, view[0] * scale, view[1] * scale))
        size = size_of_equal_cost(cost, budget, view, self._backbone.spec.patch_px)
        return self._kind(f"equal-cost:{entry.name}", module, "last map", self._in_proportion(size), origin)

    def _in_proportion(self, size: Size) -> Callable[[Size], Size]:
        """Other views are enlarged as the common one is to `size`."""
        view, patch = self._view, self._backbone.spec.patch_px

        def sizes(other: Size) -> Size:
            height, width = (
                max(1, round(side * full / usual / patch)) * patch
                for side, full, usual in zip(other, size, view, strict=True)
            )
            return height, width

        return sizes


def _times(factor: int) -> Callable[[Size], Size]:
    return lambda view: (factor * view[0], factor * view[1])


def _engines(settings: EvalSettings) -> list[FeatureKind]:
    """Engines of an exported model; its default where none is named."""
    path = Path(settings.model)
    if settings.engines and not path.is_dir():
        raise SpecError(f"--engine needs a model directory; {path} is one graph")
    kinds = []
    for name in settings.engines or ("default",):
        choice = {} if name == "default" else parse_engine(name)
        model = open_model(path, threads=settings.threads, **choice)
        if not model.spec.has_features:
            model.close()
            raise SpecError(
                f"{path} gives its head's answer alone, so there are no features to score; export it with "
                "--keep-features"
            )
        identity = f"engine {sha256_of(model.path)[:32]} on {model.backend}"
        kinds.append(
            FeatureKind(
                name=f"engine:{name}",
                source=EngineSource(model, identity, model.path.name, gflop_of_engine(model.path)),
            )
        )
    return kinds
