"""The teacher: nothing trained, a closed form of descriptors by hand.

Three groups of numbers for each token, each whitened on the photographs:

- local: the token's own descriptor, at the resolution that the network sees,
- context: the descriptor averaged over six windows that are parts of the picture (`context`), all six together,
- codes: how near the descriptor and its context lie to the centres of k-means (Coates & Ng's soft "triangle" code),
  less what the other two groups say linearly.

The closed start of the network has a place for each group in its width, so their sizes are the network's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from nano.context import WINDOWS, window_mean
from nano.descriptor import finish

LOCAL, CONTEXT, CODES = 96, 200, 86  # together with 2 reserved channels 384
PLAIN = LOCAL + CONTEXT
CENTRES = 1024
KMEANS_DIMS = 96


@dataclass(frozen=True)
class Whitening:
    """A linear map to decorrelated numbers of variance 1."""

    mean: Tensor
    project: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """(..., C) to (..., d)."""
        return (rows - self.mean) @ self.project


def fit_whitening(rows: Tensor, dims: int, power: float = 0.5) -> Whitening:
    """Whitening to the `dims` strongest components of standardised rows, strongest first.

    Args:
        rows: (N, C).
        dims: d.
        power: of the variance that is divided by: 0.5 whitens, 0.25 half-way.
    """
    mean, scale = rows.mean(0), rows.std(0).clamp_min(1e-4)
    standard = (rows - mean) / scale
    values, vectors = torch.linalg.eigh(standard.T @ standard / len(rows))
    values, vectors = values.flip(0)[:dims], vectors.flip(1)[:, :dims]
    return Whitening(mean, vectors * values.clamp_min(1e-4).pow(-power) / scale[:, None])


@dataclass(frozen=True)
class Targets:
    """What the teacher says.

    Attributes:
        numbers: (B, h, w, LOCAL + CONTEXT + CODES), white.
        centre: (B, h, w), the nearest k-means centre.
    """

    numbers: Tensor
    centre: Tensor


@dataclass(frozen=True)
class Teacher:
    """The fitted closed form.

    Attributes:
        local: whitening of a token's descriptor.
        context: the same of the windows.
        near: half-whitening of both together, in which codes are found.
        centres: (K, d) of k-means there.
        linear: (PLAIN + 1, K), what local and context say of the codes.
        codes: whitening of the rest.
    """

    local: Whitening
    context: Whitening
    near: Whitening
    centres: Tensor
    linear: Tensor
    codes: Whitening

    def __call__(self, maps: Tensor) -> Targets:
        """What it says of each token, from measurements (B, C, h, w)."""
        local, context = raw_views(maps)
        plain = torch.cat([self.local(local), self.context(context)], -1)
        near = self.near(torch.cat([local, context], -1))
        rest = triangle(near, self.centres) - plain @ self.linear[:-1] - self.linear[-1]
        chosen = (near @ self.centres.T - self.centres.square().sum(1) / 2).argmax(-1)
        return Targets(torch.cat([plain, self.codes(rest)], -1), chosen)


def raw_views(maps: Tensor) -> tuple[Tensor, Tensor]:
    """A token's descriptor (B, h, w, C), and that of its windows (B, h, w, 6 C), from measurements (B, C, h, w)."""
    views = [finish(one).permute(0, 2, 3, 1) for one in (maps, *(window_mean(maps, window) for window in WINDOWS))]
    return views[0], torch.cat(views[1:], -1)


def triangle(rows: Tensor, centres: Tensor) -> Tensor:
    """By how much a centre is nearer than the mean of all: (..., K), at least 0."""
    squares = rows.square().sum(-1, keepdim=True) - 2 * rows @ centres.T + centres.square().sum(1)
    distance = squares.clamp_min(0).sqrt()
    return (distance.mean(-1, keepdim=True) - distance).relu()


def fit_teacher(windows: Iterable[Tensor], seed: int = 0, per_window: int = 40) -> Teacher:
    """Fit on measurements (1, C, h, w) of windows of the photographs."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[tuple[Tensor, Tensor]] = []
    for maps in windows:
        rows = [view.flatten(0, 2) for view in raw_views(maps)]
        chosen = torch.randperm(len(rows[0]), generator=generator)[:per_window]
        drawn.append((rows[0][chosen], rows[1][chosen]))
    local, context = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    both = torch.cat([local, context], 1)
    whiten_local, whiten_context = fit_whitening(local, LOCAL), fit_whitening(context, CONTEXT)
    near = fit_whitening(both, KMEANS_DIMS, 0.25)
    centres = kmeans(near(both), CENTRES, 12, generator)
    code = triangle(near(both), centres)
    ones = torch.cat([whiten_local(local), whiten_context(context), torch.ones(len(local), 1)], 1)
    linear = torch.linalg.solve(ones.T @ ones + 1e-2 * torch.eye(ones.shape[1]), ones.T @ code)
    return Teacher(whiten_local, whiten_context, near, centres, linear, fit_whitening(code - ones @ linear, CODES))


def kmeans(rows: Tensor, count: int, rounds: int, generator: torch.Generator) -> Tensor:
    """Lloyd's centres; one that nothing chooses is drawn anew."""
    centres = rows[torch.randperm(len(rows), generator=generator)[:count]]
    for _ in range(rounds):
        half = centres.square().sum(1) / 2
        nearest = torch.cat([(part @ centres.T - half).argmax(1) for part in rows.split(20_000)])
        number = torch.bincount(nearest, minlength=count)
        centres = torch.zeros_like(centres).index_add_(0, nearest, rows) / number.clamp_min(1)[:, None]
        empty = number == 0
        centres[empty] = rows[torch.randperm(len(rows), generator=generator)[: int(empty.sum())]]
    return centres


def save_teacher(teacher: Teacher, path: Path) -> None:
    """Write a fitted teacher."""
    torch.save({field.name: _plain_form(getattr(teacher, field.name)) for field in fields(teacher)}, path)


def _plain_form(value: object) -> object:
    return (value.mean, value.project) if isinstance(value, Whitening) else value


def load_teacher(path: Path) -> Teacher:
    """What `save_teacher` wrote."""
    state = torch.load(path)
    return Teacher(**{name: Whitening(*part) if isinstance(part, tuple) else part for name, part in state.items()})
