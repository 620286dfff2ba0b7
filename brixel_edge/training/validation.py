"""How close the student comes to the teacher on photographs held out, beside the bilinear baseline.

The baseline is the backbone's own coarse map of the student's view, enlarged bilinearly: what one has without training.
Every number is computed per photograph and then averaged, so it depends on no batch size and no number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from brixel_edge.network.student import backbone_view
from brixel_edge.training.facts import Scores
from brixel_edge.training.losses import LossSettings, distillation_loss, edge_loss, l1_loss, principal_directions
from brixel_edge.training.prefetch import Batch, BatchJobs, prefetched
from brixel_edge.training.processes import Processes
from brixel_edge.training.samples import Sample
from brixel_edge.training.step import Distiller

METRICS = ("cosine", "cosine_centred", "l1", "edge", "total")
BASELINE, STUDENT = "baseline", "student"


def map_metrics(candidate: Tensor, teacher: Tensor, losses: LossSettings) -> Tensor:
    """How far one photograph's map is from the teacher's.

    Args:
        candidate: (1, D, h, w).
        teacher: (1, D, h, w).
        losses: what `edge` and `total` mean.

    Returns:
        (5,) fp64 in the order of `METRICS`: mean cosine of the cells; the same after the teacher's mean feature of this
        photograph is taken from both (raw cosines flatter: one common offset makes them high); mean absolute
        difference; the edge term; the weighted sum that training minimises.
    """
    mean = teacher.mean((2, 3), keepdim=True)
    components = min(losses.components, teacher.shape[1])
    directions = principal_directions(teacher, components)
    values = (
        functional.cosine_similarity(candidate, teacher, dim=1).mean(),
        functional.cosine_similarity(candidate - mean, teacher - mean, dim=1).mean(),
        l1_loss(candidate, teacher),
        edge_loss(candidate, teacher, norm=losses.edge_norm, directions=directions),
        distillation_loss(candidate, teacher, losses)["total"],
    )
    return torch.stack(values).double().cpu()


# The teacher's maps of the held-out photographs are kept in memory up to this, so that it sees them only once.
HELD_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Example:
    """One photograph's maps, for the panel.

    Attributes:
        image: (4H, 4W, 3) or (H, W, 3) uint8 RGB.
        baseline: (D, h, w).
        student: (D, h, w).
        teacher: (D, h, w).
    """

    image: NDArray[np.uint8]
    baseline: NDArray[np.float32]
    student: NDArray[np.float32]
    teacher: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result: mean metrics by name, of both candidates.

    Attributes:
        baseline: of the enlarged coarse map.
        student: of the student.
        photographs: how many.
        examples: the first ones, for a picture.
    """

    baseline: dict[str, float]
    student: dict[str, float]
    photographs: int
    examples: tuple[Example, ...] = ()

    def scores(self, step: int) -> Scores:
        """As the record keeps them, after so many steps."""
        return Scores(step=step, baseline=self.baseline, student=self.student, photographs=self.photographs)


@torch.no_grad()
def candidate_maps(distiller: Distiller, batch: Batch, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The baseline's and the student's maps of a batch, (B, D, h, w) fp32, h x w being `size`; one backbone pass."""
    image = distiller.normalised(batch.student)
    with distiller.student_arithmetic():
        maps = distiller.backbone(backbone_view(image, distiller.student.view_scale))
        student = distiller.refiner(image, maps).float()
    return functional.interpolate(maps[-1].float(), size=size, mode="bilinear", align_corners=False), student


class Validator:
    """Held-out photographs of this process, measured again and again.

    Args:
        batches: this process's photographs, each once.
        losses: what `edge` and `total` mean.
        processes: of the run.
        workers: decoding threads.
        depth: batches decoded ahead.
        examples: photographs of the picture.
    """

    def __init__(
        self,
        batches: Sequence[BatchJobs],
        losses: LossSettings,
        processes: Processes,
        *,
        workers: int = 4,
        depth: int = 2,
        examples: int = 4,
    ) -> None:
        self._jobs, self._losses, self._processes = batches, losses, processes
        self._workers, self._depth, self._examples = workers, depth, examples
        self._held: list[Batch] | None = None

    def evaluate(self, distiller: Distiller) -> Evaluation:
        """Measure and average over all processes; the student's refiner is left in the mode it was in."""
        refiner = distiller.refiner
        was_training = refiner.training
        refiner.eval()
        sums = torch.zeros(2 * len(METRICS) + 1, dtype=torch.float64)
        examples: list[Example] = []
        try:
            for batch, teacher in self._batches(distiller):
                baseline, student = candidate_maps(distiller, batch, (teacher.shape[-2], teacher.shape[-1]))
                for place, sample in enumerate(batch.samples):
                    maps = [x[place : place + 1] for x in (baseline, student, teacher)]
                    sums[:-1] += torch.cat([map_metrics(x, maps[2], self._losses) for x in maps[:2]])
                    sums[-1] += 1
                    if len(examples) < self._examples:
                        examples.append(_example(sample, maps))
        finally:
            refiner.train(was_training)
        total = self._processes.sum(sums.to(distiller.device)).cpu()
        means = (total[:-1] / total[-1]).tolist()
        return Evaluation(
            baseline=dict(zip(METRICS, means[: len(METRICS)], strict=True)),
            student=dict(zip(METRICS, means[len(METRICS) :], strict=True)),
            photographs=int(total[-1]),
            examples=tuple(examples),
        )

    def _batches(self, distiller: Distiller) -> Iterator[tuple[Batch, Tensor]]:
        """Batches and the teacher's maps, through fp16 whether they are computed now or were kept."""
        if self._held is not None:
            yield from ((batch, distiller.targets(batch)) for batch in self._held)
            return
        held: list[Batch] = []
        held_bytes = shown = 0
        for batch in prefetched(iter(self._jobs), self._workers, self._depth, is_filled=False):
            teacher = distiller.targets(batch).half().float()
            yield batch, teacher
            held_bytes += 2 * teacher.numel()
            if held_bytes <= HELD_BYTES:
                held.append(_with_targets(batch, teacher, self._examples - shown))
                shown += len(batch.names)
        self._held = held if held_bytes <= HELD_BYTES else None


def _example(sample: Sample, maps: Sequence[Tensor]) -> Example:
    baseline, student, teacher = (x[0].cpu().numpy() for x in maps)
    image = sample.teacher if sample.teacher is not None else sample.student
    return Example(image=image, baseline=baseline, student=student, teacher=teacher)


def _with_targets(batch: Batch, targets: Tensor, images: int) -> Batch:
    """The batch with its maps in place of the teacher's views, of which the first `images` stay for the picture."""
    samples = [
        replace(sample, target=target, teacher=sample.teacher if place < images else None)
        for place, (sample, target) in enumerate(zip(batch.samples, targets.half().cpu().numpy(), strict=True))
    ]
    return replace(batch, samples=tuple(samples), teacher=None)
