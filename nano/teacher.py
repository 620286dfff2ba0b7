"""The teacher: nothing trained, a closed form of descriptors by hand.

Three groups of numbers for each token, each whitened on the photographs:

- local: the token's own descriptor, at the resolution that the network sees,
- context: the descriptor averaged over six windows that are parts of the picture (`context`),
- codes: how near the descriptors of the picture at twice the resolution, with their context, lie to the centres of
  k-means (Coates & Ng's soft "triangle" code), less what the other two groups say linearly.

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

LOCAL, CONTEXT, CODES = 144, 24, 94  # context: for each window; together with 2 reserved channels 384
CENTRES = 1024
KMEANS_DIMS = 96


@dataclass(frozen=True)
class Views:
    """Measurements of windows.

    Attributes:
        own: (B, C, h, w), of the picture that the network sees, a token a place.
        finer: (B, C, 2h, 2w), of the picture at twice the resolution, half a token a place.
    """

    own: Tensor
    finer: Tensor

    def __len__(self) -> int:
        return len(self.own)

    def split(self, count: int) -> list[Views]:
        """Parts of `count` windows."""
        return [Views(*parts) for parts in zip(self.own.split(count), self.finer.split(count), strict=True)]


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
        numbers: (B, h, w, LOCAL + 6 * CONTEXT + CODES), white.
        finer: (B, h, w, KMEANS_DIMS), the finer descriptors with their context, half-white.
        centre: (B, h, w), the nearest k-means centre of these.
    """

    numbers: Tensor
    finer: Tensor
    centre: Tensor


@dataclass(frozen=True)
class Teacher:
    """The fitted closed form.

    Attributes:
        local: whitening of a token's descriptor.
        contexts: the same of each window.
        near: half-whitening of the finer descriptors with their context, in which codes are found.
        centres: (K, d) of k-means there.
        linear: (LOCAL + 6 * CONTEXT + 1, K), what local and context say of the codes.
        codes: whitening of the rest.
    """

    local: Whitening
    contexts: tuple[Whitening, ...]
    near: Whitening
    centres: Tensor
    linear: Tensor
    codes: Whitening

    def __call__(self, views: Views) -> Targets:
        """What it says of each token."""
        plain = self._plain(*raw_views(views.own))
        near = self.near(_joined(_pooled(views.finer)))
        rest = triangle(near, self.centres) - plain @ self.linear[:-1] - self.linear[-1]
        chosen = (near @ self.centres.T - self.centres.square().sum(1) / 2).argmax(-1)
        return Targets(torch.cat([plain, self.codes(rest)], -1), near, chosen)

    def _plain(self, local: Tensor, contexts: list[Tensor]) -> Tensor:
        parts = [whiten(rows) for whiten, rows in zip(self.contexts, contexts, strict=True)]
        return torch.cat([self.local(local), *parts], -1)


def plain_dims() -> int:
    """Numbers of local and context together."""
    return LOCAL + len(WINDOWS) * CONTEXT


def raw_views(maps: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A token's descriptor and that of its windows, (B, h, w, C) each, from measurements (B, C, h, w)."""
    views = [finish(one).permute(0, 2, 3, 1) for one in (maps, *(window_mean(maps, window) for window in WINDOWS))]
    return views[0], views[1:]


def _pooled(cells: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(cells, 2)


def _joined(maps: Tensor) -> Tensor:
    local, contexts = raw_views(maps)
    return torch.cat([local, *contexts], -1)


def triangle(rows: Tensor, centres: Tensor) -> Tensor:
    """By how much a centre is nearer than the mean of all: (..., K), at least 0."""
    squares = rows.square().sum(-1, keepdim=True) - 2 * rows @ centres.T + centres.square().sum(1)
    distance = squares.clamp_min(0).sqrt()
    return (distance.mean(-1, keepdim=True) - distance).relu()


def fit_teacher(windows: Iterable[Views], seed: int = 0, per_window: int = 40) -> Teacher:
    """Fit on windows of the photographs."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[list[Tensor]] = [[] for _ in range(2 + len(WINDOWS))]
    for views in windows:
        local, contexts = raw_views(views.own)
        rows = [view.flatten(0, 2) for view in (local, *contexts, _joined(_pooled(views.finer)))]
        chosen = torch.randperm(len(rows[0]), generator=generator)[:per_window]
        for parts, view in zip(drawn, rows, strict=True):
            parts.append(view[chosen])
    local, *contexts, finer = [torch.cat(parts) for parts in drawn]
    whiten_local = fit_whitening(local, LOCAL)
    whiten_contexts = tuple(fit_whitening(rows, CONTEXT) for rows in contexts)
    parts = [whiten(rows) for whiten, rows in zip(whiten_contexts, contexts, strict=True)]
    near = fit_whitening(finer, KMEANS_DIMS, 0.25)
    centres = kmeans(near(finer), CENTRES, 12, generator)
    code = triangle(near(finer), centres)
    ones = torch.cat([whiten_local(local), *parts, torch.ones(len(local), 1)], 1)
    linear = torch.linalg.solve(ones.T @ ones + 1e-2 * torch.eye(ones.shape[1]), ones.T @ code)
    return Teacher(whiten_local, whiten_contexts, near, centres, linear, fit_whitening(code - ones @ linear, CODES))


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
    if isinstance(value, Whitening):
        return (value.mean, value.project)
    return [_plain_form(item) for item in value] if isinstance(value, tuple) else value


def load_teacher(path: Path) -> Teacher:
    """What `save_teacher` wrote."""
    state = torch.load(path)
    whitenings = {name: Whitening(*state[name]) for name in ("local", "near", "codes")}
    contexts = tuple(Whitening(*parts) for parts in state["contexts"])
    return Teacher(contexts=contexts, centres=state["centres"], linear=state["linear"], **whitenings)
