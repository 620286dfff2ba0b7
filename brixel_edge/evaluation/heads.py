"""From an evaluation to a head that `brixel-export --head` adds to a graph: its probe, prototypes or components."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from brixel_edge.errors import SpecError
from brixel_edge.evaluation.fitting import Target
from brixel_edge.evaluation.probe import Probe, points_of
from brixel_edge.evaluation.samples import LabelledData
from brixel_edge.evaluation.sources import FeatureKind
from brixel_edge.evaluation.store import FeatureStore
from brixel_edge.model.head import Head, distinct_colours, pca_head, prototype_head
from brixel_edge.model.head_spec import FeatureOrigin, HeadSpec
from brixel_edge.training.processes import Processes


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a head can be made of.

    Attributes:
        data: that was learnt from.
        kind: of features.
        store: features of this process's training pictures; None before they are computed.
        targets: what they teach, by their numbers.
        processes: that share the pictures.
    """

    data: LabelledData
    kind: FeatureKind
    store: FeatureStore | None
    targets: Mapping[int, Target]
    processes: Processes

    @property
    def makes_heads(self) -> bool:
        """Whether its features are those of a model that can be exported."""
        return self.kind.source.origin is not None

    def maps(self) -> Iterator[tuple[Target, Tensor]]:
        """What each of this process's pictures teaches, and what the probe sees of it: (1, D, h, w)."""
        assert self.store is not None
        for index, target in self.targets.items():
            yield target, self.kind.seen(self.store[index])

    def require_origin(self) -> FeatureOrigin:
        """The origin of the features.

        Raises:
            SpecError: features that no exported model gives, or that do not say whose they are.
        """
        origin = self.kind.source.origin
        if origin is None:
            raise SpecError(
                f"features {self.kind.name} are of no model that can be exported: S2 joins two maps, and graphs of "
                "earlier releases do not say whose features they give (export them again)"
            )
        return origin


def parse_components(text: str) -> int | None:
    """The K of `pca-K`; None for another kind of head."""
    match = re.fullmatch(r"pca-([1-9]\d*)", text)
    return None if match is None else int(match[1])


def made_head(what: str, probe: Probe, material: Material) -> Head:
    """Make a head; every process takes part.

    Args:
        what: `probe`, `prototypes` or `pca-K`.
        probe: trained.
        material: for the others.

    Raises:
        SpecError: features without a model, a probe that is not linear, a class that occurs nowhere.
    """
    components = parse_components(what)
    if components is not None:
        return _components(components, material)
    return head_of_probe(probe, material) if what == "probe" else _prototypes(material)


def head_of_probe(probe: Probe, material: Material) -> Head:
    """A linear probe of classes or depth as a head.

    Raises:
        SpecError: another probe.
    """
    if not probe.is_linear or probe.kind == "normals":
        raise SpecError(f"a {'linear' if probe.is_linear else 'light'} probe of {probe.kind} is no head")
    weight, bias = (values.float().cpu().numpy() for values in probe.matrix())
    if probe.kind == "depth":
        spec = HeadSpec(kind="depth", outputs=1)
    else:
        classes = material.data.classes
        spec = HeadSpec(kind="segmentation", outputs=len(classes), classes=classes, colours=_colours(material.data))
    return Head(spec=spec, weight=weight, bias=bias, origin=material.require_origin())


def _colours(data: LabelledData) -> tuple[tuple[int, int, int], ...]:
    return data.colours or distinct_colours(len(data.classes))


@torch.no_grad()
def _components(count: int, material: Material) -> Head:
    """Principal components of all cells of the training pictures."""
    dim = material.require_origin().dim
    moments = torch.zeros(dim * dim + dim + 1, dtype=torch.float64)
    for _, features in material.maps():
        cells = features[0].double().flatten(1)
        moments += torch.cat(((cells @ cells.T).flatten(), cells.sum(1), torch.tensor([float(cells.shape[1])])))
    products, sums, number = material.processes.sum(moments).split([dim * dim, dim, 1])
    mean = sums / number
    covariance = products.view(dim, dim) / number - mean[:, None] * mean
    return pca_head(mean.numpy(), covariance.numpy(), count, material.require_origin())


@torch.no_grad()
def _prototypes(material: Material) -> Head:
    """The mean direction of each class's features, at the places that a probe learns from."""
    classes = material.data.classes
    sums = torch.zeros(len(classes), material.require_origin().dim, dtype=torch.float64)
    for target, features in material.maps():
        directions = functional.normalize(points_of(features, target.points), dim=1)
        sums.index_add_(0, target.true, directions.double())
    total: Tensor = material.processes.sum(sums.flatten()).view_as(sums)
    return prototype_head(total.numpy(), classes, _colours(material.data), material.require_origin())
