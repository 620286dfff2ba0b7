"""One step of distillation: targets from the teacher, the student's answer, the loss, the update.

Knows no files and no epochs. The teacher is the student's own frozen backbone on a view four times as large.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from brixel_edge.network.adapter import DropPath
from brixel_edge.network.backbone import Backbone
from brixel_edge.network.student import Student
from brixel_edge.training.block_attention import BlockAttention
from brixel_edge.training.losses import LossSettings, distillation_loss
from brixel_edge.training.prefetch import Batch
from brixel_edge.training.processes import Processes
from brixel_edge.training.teacher_cache import CachedView, TeacherCache


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products are faster here than fp32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class DrawnDropPath(nn.Module):
    """Stochastic depth whose choices are drawn for the whole batch of a step, whoever computes which part of it.

    Args:
        rate: share of samples that skip the branch while training.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.kept: Tensor | None = None

    def draw(self, generator: torch.Generator, share: int, processes: Processes, device: torch.device) -> None:
        """Choose for the next forward pass.

        Args:
            generator: in the same state in every process.
            share: samples of this process.
            processes: of the run.
            device: of the samples.
        """
        drawn = torch.rand(share * processes.world, generator=generator) >= self.rate
        self.kept = drawn[processes.rank * share :][:share].to(device)

    def forward(self, x: Tensor) -> Tensor:
        """`x`, or zero for the samples that skip the branch, the others scaled up."""
        if not self.training or self.rate == 0:
            return x
        assert self.kept is not None, "draw before each training step"
        return x * self.kept.view(-1, *(1,) * (x.ndim - 1)) / (1 - self.rate)


def draw_drop_paths(module: nn.Module, rate: float) -> None:
    """Replace every DropPath below a module by one that is drawn from outside."""
    for name, child in module.named_children():
        if isinstance(child, DropPath):
            setattr(module, name, DrawnDropPath(rate))
        else:
            draw_drop_paths(child, rate)


@dataclass(frozen=True, kw_only=True)
class Arithmetics:
    """Whether student and teacher run under bf16 autocast."""

    is_student_bf16: bool
    is_teacher_bf16: bool


class Distiller:
    """Student, teacher and optimiser of one process.

    Args:
        student: with a refiner in training mode; its backbone is the teacher.
        network: what computes the student's answer: the student, or its DistributedDataParallel.
        optimiser: over the refiner's parameters.
        losses: weights and readings.
        arithmetics: precisions.
        processes: of the run.
        seed: of the run.
        teacher: the backbone, or its compiled form.
        teacher_batch: photographs at once; 0 is all.
        cache: of the teacher's maps.
    """

    def __init__(
        self,
        student: Student,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        losses: LossSettings,
        arithmetics: Arithmetics,
        processes: Processes,
        seed: int = 0,
        teacher: Callable[[Tensor], list[Tensor]] | None = None,
        teacher_batch: int = 0,
        cache: TeacherCache | None = None,
    ) -> None:
        self.student, self.optimiser = student, optimiser
        self.backbone: Backbone = student.backbone
        assert student.refiner is not None
        self.refiner: nn.Module = student.refiner
        self.device = next(student.backbone.parameters()).device
        self._network = network
        self._teacher = student.backbone if teacher is None else teacher
        self._losses, self._arithmetics, self._processes, self._seed = losses, arithmetics, processes, seed
        self._teacher_batch, self._cache = teacher_batch, cache
        self._drop_paths = [module for module in student.modules() if isinstance(module, DrawnDropPath)]
        spec = student.backbone.spec
        self._mean = torch.tensor(spec.mean, device=self.device).view(3, 1, 1) * 255
        self._std = torch.tensor(spec.std, device=self.device).view(3, 1, 1) * 255

    def normalised(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(B, H, W, 3) uint8 RGB -> (B, 3, H, W), as the backbone takes it."""
        on_device = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device, non_blocking=True)
        return (on_device.permute(0, 3, 1, 2).float() - self._mean) / self._std

    def student_arithmetic(self) -> torch.autocast:
        """The autocast that the student runs under."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._arithmetics.is_student_bf16)

    @torch.inference_mode()
    def teacher_maps(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(B, 4H, 4W, 3) uint8 RGB -> the backbone's own map of it, (B, D, 4h, 4w) fp32."""
        chunk = self._teacher_batch or len(pixels)
        maps = []
        is_bf16 = self._arithmetics.is_teacher_bf16
        is_blocked = is_bf16 and self.device.type == "cpu" and self._teacher is self.backbone
        blocks = BlockAttention() if is_blocked else nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16), blocks:
            for start in range(0, len(pixels), chunk):
                maps.append(self._teacher(self.normalised(pixels[start : start + chunk]))[-1].float())
        return torch.cat(maps)

    def targets(self, batch: Batch) -> Tensor:
        """The teacher's maps of a batch, (B, D, 4h, 4w) fp32, from the cache where it has them."""
        computed = self.teacher_maps(batch.teacher) if batch.teacher is not None else None
        if computed is not None and all(sample.cache_key is None for sample in batch.samples):
            return computed
        # Through fp16 in either case, so that a map is the same whether it was cached or not.
        fresh = iter(computed.half().cpu().numpy() if computed is not None else ())
        maps = []
        for sample in batch.samples:
            target = sample.target if sample.target is not None else next(fresh)
            if sample.target is None and sample.cache_key is not None and self._cache is not None:
                self._cache.put(sample.cache_key, CachedView(student=sample.student, target=target))
            maps.append(target)
        return torch.from_numpy(np.stack(maps)).to(self.device).float()

    def step(self, batch: Batch, step: int, learning_rate: float) -> dict[str, Tensor]:
        """Train on a batch.

        Args:
            batch: this process's part.
            step: from 0; seeds what is random inside the network.
            learning_rate: for this step.

        Returns:
            the loss terms of this process, detached.
        """
        target = self.targets(batch)
        self._draw(step, len(batch.names))
        with self.student_arithmetic():
            features = self._network(self.normalised(batch.student))
        combine = self._processes.sum if self._processes.world > 1 else None
        terms = distillation_loss(features, target, self._losses, combine)
        self.optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.step()
        return {name: term.detach() for name, term in terms.items()}

    def _draw(self, step: int, share: int) -> None:
        seed = int(np.random.SeedSequence((self._seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator().manual_seed(seed)
        for drop_path in self._drop_paths:
            drop_path.draw(generator, share, self._processes, self.device)
