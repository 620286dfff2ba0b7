"""Does a head of an artefact still answer what it answers on PyTorch's features?

Classes are compared as such: what a user loses by rounding is a cell that changes its class. Logits are compared too,
since logits times two have the same classes and another meaning. Depth is compared by how far it is off, in parts of
the depth; components by their error in parts of their spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import ParityError
from brixel_edge.model.head_spec import WITH_CLASSES, HeadKind
from brixel_edge.model.receipt_sections import AnswerFigures

Answers = Sequence[NDArray[np.floating]]


@dataclass(frozen=True, kw_only=True)
class AnswerGate:
    """Bounds of one precision.

    Attributes:
        agreement: share of the cells whose class must be PyTorch's.
        error: largest error of classes' scores and of components, in parts of their spread.
        depth: largest mean error of depth, in parts of it.
    """

    agreement: float
    error: float
    depth: float


class AnswerReport(AnswerFigures):
    """How far answers are from PyTorch's, over all cells of all images; the figures of the receipt, and their gate."""

    def shortfalls(self, gate: AnswerGate) -> list[str]:
        """The bounds that are missed, in words; none where it passes."""
        if not self.finite or self.error is None:
            return ["its answers hold NaN or Inf"]
        allowed = gate.depth if self.kind == "depth" else gate.error
        missed = []
        if self.agreement is not None and not self.agreement >= gate.agreement:
            missed.append(f"{self.agreement:.2%} of the cells keep their class, {gate.agreement:.1%} must")
        if not self.error <= allowed:
            what = "depth" if self.kind == "depth" else "the answer"
            missed.append(f"{what} is off by {self.error:.2e}, at most {allowed} is allowed")
        return missed


def compare_answers(kind: HeadKind, references: Answers, candidates: Answers) -> AnswerReport:
    """Compare answers to the same images.

    Args:
        kind: of the head.
        references: (1, K, h, w) each.
        candidates: the same shapes.

    Raises:
        ParityError: shapes differ, or there is nothing to compare.
    """
    if not references or [r.shape for r in references] != [c.shape for c in candidates]:
        given = [c.shape for c in candidates][:2]
        raise ParityError(f"answers of shape {given} cannot be compared with {[r.shape for r in references][:2]}")
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(references, candidates, strict=True)]
    if not all(np.isfinite(candidate).all() for _, candidate in pairs):
        return AnswerReport(kind=kind, agreement=None, error=None, finite=False)
    if kind == "depth":
        # The head answers with logarithms, and e to a difference of logarithms is a ratio of depths.
        errors = np.concatenate([np.abs(np.expm1(b - a)).ravel() for a, b in pairs])
        return AnswerReport(kind=kind, agreement=None, error=float(errors.mean()))
    agreement = None
    if kind in WITH_CLASSES:
        agreement = float(np.concatenate([(a.argmax(1) == b.argmax(1)).ravel() for a, b in pairs]).mean())
    return AnswerReport(kind=kind, agreement=agreement, error=_relative_error(pairs))


def _relative_error(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> float:
    """Without the mean of each channel, which would hide an error behind its own length."""
    cells = np.concatenate([a.reshape(a.shape[1], -1) for a, _ in pairs], axis=1)
    spread = float(np.square(cells - cells.mean(axis=1, keepdims=True)).sum())
    wrong = math.fsum(float(np.square(b - a).sum()) for a, b in pairs)
    return math.sqrt(wrong / max(spread, 1e-30))
