"""What is learned: published recipes that share one loop. Each is a module with its own heads."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nano.network import normalise, tokens
from nano.teacher import CENTRES, Teacher
from nano.windows import Batch, block_mask

Cells = list[list[NDArray[np.float16]]]


class Objective(nn.Module):
    """Base: holds the mask token and runs the network.

    Attributes:
        finer: whether batches need the windows at twice the resolution.
        flips: whether windows may be mirrored.
        augmented: whether their exposure, colours and sharpness are changed a little.
    """

    finer = False
    flips = False
    augmented = True

    def __init__(self, vit: Any, *, share: float, odds: float) -> None:
        super().__init__()
        self.width = vit.embed_dim
        self._share, self._odds = share, odds
        self.mask_token = nn.Parameter(torch.randn(self.width) * 0.02)

    def masked(self, vit: Any, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Patch tokens (B, h * w, D) of masked windows, and the mask (B, h * w)."""
        mask = block_mask(rng, len(batch.images), batch.grid, self._share, self._odds)
        return tokens(vit, normalise(batch.images), mask, self.mask_token), mask.flatten(1)

    def after_step(self, vit: Any, step: int) -> None:
        """Called after every step of the optimiser."""

    def forward(self, vit: Any, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Terms of the loss, to be added up."""
        raise NotImplementedError


class Described(Objective):
    """Say what the teacher says of each token, seen or masked: its numbers and its nearest k-means centre.

    MaskFeat's loss with richer features than HOG, and HuBERT's with codes of the same features.

    Args:
        vit: the network.
        teacher: fitted.
        cells: of the photographs.
        codes: weight of the codes beside the numbers.
        odds: share of windows that are masked at all.
    """

    augmented = False

    def __init__(self, vit: Any, teacher: Teacher, cells: Cells, *, codes: float, odds: float) -> None:
        super().__init__(vit, share=0.4, odds=odds)
        self._teacher, self._cells, self._codes = teacher, cells, codes
        dims = self.width - 2
        self.numbers = nn.Linear(self.width, dims)
        self.centres = nn.Linear(self.width, CENTRES)
        with torch.no_grad():
            self.numbers.weight.copy_(torch.eye(self.width)[2:])
            self.numbers.bias.zero_()

    def forward(self, vit: Any, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Mean squared error, and mean cross-entropy."""
        out, _ = self.masked(vit, batch, rng)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            goal = self._teacher(cut_cells(self._cells, batch))
        losses = {"numbers": (self.numbers(out).float() - goal.numbers.flatten(1, 2)).square().mean()}
        if self._codes:
            logits = self.centres(out).float().flatten(0, 1)
            losses["codes"] = self._codes * F.cross_entropy(logits, goal.centre.flatten())
        return losses


def cut_cells(cells: Cells, batch: Batch) -> Tensor:
    """Measurements (B, C, h, w) of a batch's windows; those of a level's own resolution are kept two levels before."""
    tall, wide = batch.grid
    maps = [
        cells[photo][level - 2][:, top // 2 : top // 2 + tall, left // 2 : left // 2 + wide]
        for photo, level, top, left in zip(batch.photo, batch.level, batch.top, batch.left, strict=True)
    ]
    return torch.from_numpy(np.stack(maps).astype(np.float32))


class Pixels(Objective):
    """Masked patches from seen ones, pixels normalised patch by patch (SimMIM with MAE's targets)."""

    flips = True

    def __init__(self, vit: Any) -> None:
        super().__init__(vit, share=0.6, odds=1)
        self.head = nn.Linear(self.width, 768)

    def forward(self, vit: Any, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Mean squared error over masked patches."""
        out, mask = self.masked(vit, batch, rng)
        patches = F.unfold(normalise(batch.images), 16, stride=16).transpose(1, 2)
        patches = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-3).sqrt()
        return {"pixels": (self.head(out[mask]).float() - patches[mask]).square().mean()}


def _projector(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 512), nn.GELU(), nn.Linear(512, out))


class FinerTeacher(Objective):
    """Self-distillation from an average of the weights that sees the window at twice the resolution.

    Its map, averaged over 2 x 2 tokens, chooses prototypes by Sinkhorn's balancing (iBOT's patch loss with SwAV's
    assignment); the network, masked and augmented, must choose the same.
    """

    finer = True
    flips = True

    def __init__(self, vit: Any, *, prototypes: int = 1024, momentum: float = 0.99) -> None:
        super().__init__(vit, share=0.4, odds=0.5)
        self.projector = _projector(self.width, 128)
        self.prototypes = nn.Parameter(torch.randn(prototypes, 128))
        self._momentum = momentum
        self.teacher = nn.ModuleList([copy.deepcopy(vit), copy.deepcopy(self.projector)]).requires_grad_(False)

    def target_map(self, batch: Batch) -> Tensor:
        """The teacher's projected map on the network's grid, (B, h * w, 128)."""
        if batch.finer is None:
            raise ValueError("this objective needs finer windows")
        tall, wide = batch.grid
        with torch.no_grad():
            out = tokens(self.teacher[0], normalise(batch.finer))
            maps = out.transpose(1, 2).reshape(len(out), -1, 2 * tall, 2 * wide)
            return self.teacher[1](F.avg_pool2d(maps, 2).flatten(2).transpose(1, 2)).float()

    def forward(self, vit: Any, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Cross-entropy to the teacher's assignments."""
        goal = self.target_map(batch)
        out, _ = self.masked(vit, batch, rng)
        centres = F.normalize(self.prototypes, dim=1)
        seen = F.normalize(self.projector(out).float(), dim=2).flatten(0, 1)
        with torch.no_grad():
            chosen = sinkhorn(F.normalize(goal, dim=2).flatten(0, 1) @ centres.T)
        return {"assign": -(chosen * F.log_softmax(seen @ centres.T / 0.1, 1)).sum(1).mean()}

    @torch.no_grad()
    def after_step(self, vit: Any, step: int) -> None:
        """Moves the teacher."""
        momentum = min(self._momentum, 1 - 1 / (step + 2))
        for kept, live in ((self.teacher[0], vit), (self.teacher[1], self.projector)):
            for old, new in zip(kept.parameters(), live.parameters(), strict=True):
                old.lerp_(new, 1 - momentum)


class DenseContrast(FinerTeacher):
    """InfoNCE between a token and the teacher's at its place, twice as fine; all others are negatives (DenseCL)."""

    def forward(self, vit: Any, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Cross-entropy of choosing the right place among all of the batch."""
        goal = F.normalize(self.target_map(batch), dim=2).flatten(0, 1)
        out, _ = self.masked(vit, batch, rng)
        seen = F.normalize(self.projector(out).float(), dim=2).flatten(0, 1)
        return {"contrast": F.cross_entropy(seen @ goal.T / 0.1, torch.arange(len(seen)))}


def sinkhorn(scores: Tensor, sharpness: float = 0.06, rounds: int = 3) -> Tensor:
    """Soft assignments of rows to columns with all columns used alike."""
    weight = ((scores - scores.max()) / sharpness).exp()
    for _ in range(rounds):
        weight = weight / weight.sum(0, keepdim=True).clamp_min(1e-12) / weight.shape[1]
        weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-12)
    return weight
