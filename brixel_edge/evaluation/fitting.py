"""Training a probe: over one process or many, with the same result.

Every picture belongs to one process, which alone holds its features. A step's gradients are summed picture by picture
in float64 and over processes, so that the order of the sum does not show in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from brixel_edge.errors import DataError
from brixel_edge.evaluation.probe import Probe, cosine_rate, loss_of, normalised_points, points_of
from brixel_edge.evaluation.protocol import Protocol
from brixel_edge.evaluation.samples import IGNORED, Kind, Label
from brixel_edge.evaluation.sources import FeatureKind
from brixel_edge.evaluation.store import FeatureStore
from brixel_edge.machine.progress import progress
from brixel_edge.training.processes import Processes

Item = TypeVar("Item")
LEAST_DEVIATION = 1e-6


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a training picture teaches.

    Attributes:
        true: (P,) int64 classes, (P,) float32 depth [m] or (P, 3) float32 normals.
        points: (P, 2) where, for `points_of`.
    """

    true: Tensor
    points: Tensor

    def part(self, epoch: int, count: int | None) -> Target:
        """What an epoch learns of it: `count` pixels, the next ones in each epoch; all for None."""
        parts = 1 if count is None else -(-len(self.true) // count)
        return Target(
            true=self.true[epoch % max(parts, 1) :: max(parts, 1)],
            points=self.points[epoch % max(parts, 1) :: max(parts, 1)],
        )


def target_of(kind: Kind, label: Label, points: int | None, seed: int) -> Target:
    """Draw pixels of a label; all of its labelled pixels where `points` is None or there are no more.

    Args:
        kind: of label.
        label: at its own size.
        points: how many.
        seed: of the draw, of this picture.
    """
    is_known = label != IGNORED if kind == "segmentation" else (label != 0 if kind == "depth" else label.any(axis=-1))
    places = np.flatnonzero(is_known)
    if points is not None and len(places) > points:
        places = np.sort(np.random.default_rng(seed).choice(places, points, replace=False))
    rows, columns = np.divmod(places, label.shape[1])
    values = label[rows, columns]
    true = torch.from_numpy(values.astype(np.int64) if kind == "segmentation" else values.astype(np.float32))
    return Target(true=true, points=normalised_points(rows, columns, (label.shape[0], label.shape[1])))


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Training pictures of this process.

    Attributes:
        count: of pictures over all processes.
        targets: of this process's, by their numbers.
        store: their features.
    """

    count: int
    targets: Mapping[int, Target]
    store: FeatureStore


def trained_probe(
    training: TrainingSet,
    kind: FeatureKind,
    probe: Probe,
    protocol: Protocol,
    processes: Processes,
    *,
    device: torch.device,
    seed: int,
) -> Probe:
    """Train a probe.

    Args:
        training: pictures, features, targets.
        kind: of features.
        probe: with its first weights; it is trained in place.
        protocol: how.
        processes: that share the pictures.
        device: where.
        seed: of the order of pictures.

    Raises:
        DataError: there is not one labelled pixel.
    """
    _start(training, kind, probe, protocol, processes)
    probe.to(device).train()
    parameters = [parameter for parameter in probe.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=protocol.learning_rate, weight_decay=protocol.weight_decay)
    total = protocol.epochs * math.ceil(training.count / protocol.batch)
    steps = _batches(training.count, protocol, seed)
    for step, (epoch, chosen) in enumerate(shown(steps, f"probe on {kind.name}", processes, total=total)):
        _put_gradients(training, kind, probe, epoch, chosen, protocol, processes, parameters, device)
        if protocol.is_annealed:
            for group in optimizer.param_groups:
                group["lr"] = cosine_rate(step, total, protocol.learning_rate)
        optimizer.step()
    return probe.eval()


def _batches(count: int, protocol: Protocol, seed: int) -> Iterator[tuple[int, list[int]]]:
    """Epoch and numbers of the pictures of each step; the same in every process."""
    for epoch in range(protocol.epochs):
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(count, generator=generator).tolist()
        for start in range(0, count, protocol.batch):
            yield epoch, order[start : start + protocol.batch]


def _put_gradients(
    training: TrainingSet,
    kind: FeatureKind,
    probe: Probe,
    epoch: int,
    chosen: list[int],
    protocol: Protocol,
    processes: Processes,
    parameters: list[torch.nn.Parameter],
    device: torch.device,
) -> None:
    """Gradients of a batch's mean loss, from all processes."""
    sums = torch.zeros(sum(parameter.numel() for parameter in parameters) + 1, dtype=torch.float64, device=device)
    for index in chosen:
        if index not in training.targets:
            continue
        target = training.targets[index].part(epoch, protocol.points_a_step)
        if not len(target.true):
            continue
        logits = probe(kind.seen(training.store[index].to(device)))
        given = points_of(logits, target.points.to(device))
        loss, weight = loss_of(probe.kind, given, target.true.to(device), protocol.depth_loss)
        gradients = torch.autograd.grad(loss, parameters)
        sums[:-1] += torch.cat([gradient.flatten() for gradient in gradients]).double()
        sums[-1] += weight
    sums = processes.sum(sums)
    sums = sums[:-1] / sums[-1].clamp(min=1)
    for parameter, part in zip(parameters, sums.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.reshape(parameter.shape).to(parameter.dtype)


@torch.no_grad()
def _start(training: TrainingSet, kind: FeatureKind, probe: Probe, protocol: Protocol, processes: Processes) -> None:
    """Constants of the standardisation, and for depth and normals the mean of the labels as the first answer."""
    dim = len(probe.mean)
    moments = torch.zeros(2 * dim + 1, dtype=torch.float64)
    answers = torch.zeros(probe.out.out_channels + 1, dtype=torch.float64)
    for index, target in training.targets.items():
        if protocol.standardises:
            cells = training.store[index].double().flatten(1)
            moments += torch.cat((cells.sum(1), (cells**2).sum(1), torch.tensor([float(cells.shape[1])])))
        if probe.kind != "segmentation":
            values = target.true.double().log()[:, None] if probe.kind == "depth" else target.true.double()
            answers[:-1] += values.sum(0)
        answers[-1] += len(target.true)
    answers = processes.sum(answers)
    if not answers[-1]:
        raise DataError("not one pixel of the training pictures is labelled; check the labels")
    if protocol.standardises:
        moments = processes.sum(moments)
        mean = moments[:dim] / moments[-1]
        deviation = (moments[dim : 2 * dim] / moments[-1] - mean**2).clamp(min=0).sqrt()
        probe.mean.copy_(mean)
        # A channel that never changes says nothing; it must not be blown up either.
        probe.scale.copy_(torch.where(deviation > LEAST_DEVIATION, 1 / deviation.clamp(min=LEAST_DEVIATION), 0))
    if probe.kind != "segmentation" and probe.out.bias is not None:
        probe.out.bias.copy_(answers[:-1] / answers[-1])


def shown(items: Iterable[Item], what: str, processes: Processes, *, total: int | None = None) -> Iterator[Item]:
    """Progress of the first process; the others are silent."""
    if processes.is_first:
        yield from progress(items, what, total=total)
    else:
        yield from items


def own_share(count: int, processes: Processes) -> list[int]:
    """The numbers of the pictures that belong to this process."""
    return list(range(processes.rank, count, processes.world))
