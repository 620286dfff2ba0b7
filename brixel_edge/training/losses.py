"""What the student is trained for: pure functions of (student, teacher), both (B, D, h, w).

Source: BRIXEL (arXiv 2511.05168) equations (1) to (5). Where the authors' public code departs from their text, both
readings are here: `norm` of the edge term, `mask` of the spectral term. Their principal components are randomised, on
a third of the tokens; ours are exact, on all of them, and so the same for every run and every number of processes.
The defaults are the paper's edges and the authors' spectral mask, the readings that brought held-out photographs closer
to their teacher (docs/log.md, 2026-11-21). All arithmetic is fp32 whatever comes in. The teacher gets no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from brixel_edge.errors import SpecError

EdgeNorm = Literal["l1", "mse"]
SpectralMask = Literal["high", "authors"]
SumOverProcesses = Callable[[Tensor], Tensor]

SPECTRAL_BINS = 24
# The paper's r0, as the authors' code sets it: bins from int(0.3 * 24) upwards.
FIRST_BIN = int(0.3 * SPECTRAL_BINS)
LOG_FLOOR = 1e-8


def l1_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference; equation (1)."""
    return (student.float() - teacher.detach().float()).abs().mean()


@torch.no_grad()
def principal_directions(teacher: Tensor, components: int = 8, combine: SumOverProcesses | None = None) -> Tensor:
    """The directions of highest variance among all tokens of a batch.

    Args:
        teacher: (B, D, h, w).
        components: K.
        combine: sums a tensor over the processes that share the batch; None for a single process.

    Returns:
        (D, K), orthonormal columns, highest variance first. Signs are arbitrary: no loss here depends on them.
    """
    if not 0 < components <= teacher.shape[1]:
        raise SpecError(f"{components} components of {teacher.shape[1]} features; give 1 to {teacher.shape[1]}")
    tokens = teacher.detach().float().permute(0, 2, 3, 1).reshape(-1, teacher.shape[1])
    total = torch.cat((tokens.sum(0, dtype=torch.float64), tokens.new_tensor([len(tokens)], dtype=torch.float64)))
    total = combine(total) if combine else total
    centred = tokens - (total[:-1] / total[-1]).float()
    with torch.autocast(tokens.device.type, enabled=False):
        covariance = (centred.T @ centred).double()
    covariance = combine(covariance) if combine else covariance
    # fp64: in fp32 the last digits of nearly equal eigenvalues depend on the number of threads.
    return torch.linalg.eigh(covariance).eigenvectors[:, -components:].flip(1).float()


def edge_loss(
    student: Tensor,
    teacher: Tensor,
    components: int = 8,
    norm: EdgeNorm = "l1",
    directions: Tensor | None = None,
) -> Tensor:
    """Difference of the Sobel edges of the teacher's principal components; equations (2) and (3).

    Args:
        student: (B, D, h, w).
        teacher: (B, D, h, w).
        components: K, how many principal components.
        norm: `l1` (paper) or `mse` (authors' code).
        directions: (D, K) if they are known already; else from the teacher's own tokens.

    Returns:
        mean over x edges plus mean over y edges, kernels unnormalised, without padding.
    """
    if norm not in get_args(EdgeNorm):
        raise SpecError(f"edge norm {norm!r} is not one of {', '.join(get_args(EdgeNorm))}")
    if directions is None:
        directions = principal_directions(teacher, components)
    # Projection and Sobel are linear: the edges of the difference are the difference of the edges, at half the work.
    difference = student.float() - teacher.detach().float()
    with torch.autocast(difference.device.type, enabled=False):
        projected = torch.einsum("bdhw,dk->bkhw", difference, directions)
        smooth_y = projected[:, :, :-2] + 2 * projected[:, :, 1:-1] + projected[:, :, 2:]
        smooth_x = projected[..., :-2] + 2 * projected[..., 1:-1] + projected[..., 2:]
        edges = (smooth_y[..., 2:] - smooth_y[..., :-2], smooth_x[:, :, 2:] - smooth_x[:, :, :-2])
    if norm == "mse":
        return edges[0].square().mean() + edges[1].square().mean()
    return edges[0].abs().mean() + edges[1].abs().mean()


def ring_index(height: int, width: int, mask: SpectralMask) -> Tensor:
    """To which circle each entry of an unshifted FFT belongs, (height, width) int64.

    `high`: the circle's radius is the spatial frequency, so entry (0, 0), the mean of the map, has radius 0.
    `authors`: the radius is the distance from the middle of the array, although the FFT is not shifted. What they call
    high frequencies is then nearly everything but the high frequencies, the mean included. Coordinates run from -1 to 1
    on each axis, so of a map that is not square the circles are ellipses of entries.
    """
    if mask == "high":
        y, x = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.fftfreq(width, dtype=torch.float64)
    else:
        y, x = (torch.linspace(-1, 1, size, dtype=torch.float64) for size in (height, width))
    radius = (y[:, None].square() + x[None, :].square()).sqrt()
    # (lower, upper] bins, as torch.bucketize makes them.
    return ((radius / radius.max() * SPECTRAL_BINS).ceil() - 1).clamp(0, SPECTRAL_BINS - 1).long()


@lru_cache(maxsize=32)
def _ring_averages(height: int, width: int, mask: SpectralMask, device: str) -> Tensor:
    """(h * (w // 2 + 1), bins kept): averages amplitudes of a half spectrum over the kept circles."""
    rings = functional.one_hot(ring_index(height, width, mask), SPECTRAL_BINS).double()
    rings = rings / rings.sum((0, 1)).clamp(min=1)
    half = rings[:, : width // 2 + 1].clone()
    # A real map's spectrum repeats itself at (-y, -x): what the half lacks is added to the entry that has its value.
    mirrored = rings.roll((-1, -1), (0, 1)).flip(0, 1)
    both = (width + 1) // 2
    half[:, 1:both] += mirrored[:, 1:both]
    kept = half[..., FIRST_BIN:].flatten(0, 1)
    return kept[:, kept.sum(0) > 0].float().to(device)


def _ring_spectrum(x: Tensor, window: Tensor, averages: Tensor) -> Tensor:
    amplitude = torch.fft.rfft2(x.float() * window, norm="ortho").abs().mean(1)
    return (amplitude.flatten(1) @ averages + LOG_FLOOR).log()


def spectral_loss(student: Tensor, teacher: Tensor, mask: SpectralMask = "authors") -> Tensor:
    """Mean squared difference of the log amplitudes, averaged over circles of frequency; equation (4).

    Args:
        student: (B, D, h, w).
        teacher: (B, D, h, w).
        mask: `high` takes the frequencies r >= r0, as the paper defines the term; `authors` what their code computes.

    Returns:
        mean over the batch and over the circles that hold an entry.
    """
    if mask not in get_args(SpectralMask):
        raise SpecError(f"spectral mask {mask!r} is not one of {', '.join(get_args(SpectralMask))}")
    height, width = teacher.shape[-2:]
    device = teacher.device
    with torch.autocast(device.type, enabled=False):
        hann_y = torch.hann_window(height, periodic=False, device=device)
        hann_x = torch.hann_window(width, periodic=False, device=device)
        window = hann_y[:, None] * hann_x[None, :]
        averages = _ring_averages(height, width, mask, str(device))
        with torch.no_grad():
            target = _ring_spectrum(teacher, window, averages)
        return (_ring_spectrum(student, window, averages) - target).square().mean()


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Weights and readings of the three terms; a weight of 0 leaves a term out.

    Attributes:
        l1: weight of the mean absolute difference.
        edge: lambda_edge of the paper.
        spectral: lambda_spectral of the paper.
        edge_norm: see `edge_loss`.
        spectral_mask: see `spectral_loss`.
        components: K of the edge term.
    """

    l1: float = 1.0
    edge: float = 1.0
    spectral: float = 0.1
    edge_norm: EdgeNorm = "l1"
    spectral_mask: SpectralMask = "authors"
    components: int = 8

    def __post_init__(self) -> None:
        weights = (self.l1, self.edge, self.spectral)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) == 0:
            raise SpecError(f"loss weights {weights} must be zero or more, and not all zero; the paper has 1, 1, 0.1")
        if self.edge_norm not in get_args(EdgeNorm):
            raise SpecError(f"edge norm {self.edge_norm!r} is not one of {', '.join(get_args(EdgeNorm))}")
        if self.spectral_mask not in get_args(SpectralMask):
            raise SpecError(f"spectral mask {self.spectral_mask!r} is not one of {', '.join(get_args(SpectralMask))}")
        if self.components < 1:
            raise SpecError(f"{self.components} principal components; give 1 or more (the paper has 8)")


def distillation_loss(
    student: Tensor, teacher: Tensor, settings: LossSettings, combine: SumOverProcesses | None = None
) -> dict[str, Tensor]:
    """The weighted sum and its terms; equation (5).

    Args:
        student: (B, D, h, w).
        teacher: (B, D, h, w).
        settings: weights and readings.
        combine: sums a tensor over the processes that share the batch, for the edge term's directions.

    Returns:
        `total` and, unweighted, each term whose weight is not 0: `l1`, `edge`, `spectral`.

    Raises:
        SpecError: the maps differ in shape.
    """
    if student.shape != teacher.shape:
        shapes = f"student map {tuple(student.shape)} and teacher map {tuple(teacher.shape)}"
        raise SpecError(f"{shapes} differ; the teacher's view must be four times the student's")
    terms: dict[str, Tensor] = {}
    if settings.l1:
        terms["l1"] = l1_loss(student, teacher)
    if settings.edge:
        directions = principal_directions(teacher, min(settings.components, teacher.shape[1]), combine)
        terms["edge"] = edge_loss(student, teacher, norm=settings.edge_norm, directions=directions)
    if settings.spectral:
        terms["spectral"] = spectral_loss(student, teacher, settings.spectral_mask)
    weights = {"l1": settings.l1, "edge": settings.edge, "spectral": settings.spectral}
    return {"total": torch.stack([weights[name] * term for name, term in terms.items()]).sum(), **terms}
