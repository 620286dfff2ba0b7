"""Does an artefact still compute what the PyTorch model computes? Numbers, and the gates they must pass.

Compares dense maps cell by cell. A cosine hides errors of a common offset (measured: 0.83 raw is 0.69 centred), so it
is also reported with the reference's mean removed. Signal-to-noise ratios of whole maps hide damage to few cells, so
the worst cells are reported too. Knows nothing of graphs or backends.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import ParityError
from brixel_edge.model.json_form import fields_from_json
from brixel_edge.proof.answers import AnswerGate, AnswerReport

Cells = NDArray[np.floating]  # feature vectors (n, D)
WORST_PERCENT = 1.0


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Bounds of one precision; a report passes when all hold.

    Cosines know no length: features times two, and a few cells that are all zero, would pass by them alone.
    """

    cosine_mean: float
    cosine_p01: float
    frobenius: float
    answers: AnswerGate  # of a head
    norm: float = 0.75  # sound INT8 of a trained ViT-Ti has single cells with 0.48; one that is all zero has 1


# A cell changes its class where the two best scores are nearer than the error, so agreement falls with the error of the
# features, and a head's bounds follow theirs. INT8 may change one cell in twenty: such cells lie where the probe itself
# hardly decides (on borders, where every other answer is wrong anyway), so that the accuracy lost is a part of the
# cells changed; which part, `brixel-eval --engine onnx-int8` says. Its depth may be off by 5 %, half of what a linear
# probe itself errs by indoors.
GATES = {
    "fp32": Gate(
        cosine_mean=0.9999,
        cosine_p01=0.999,
        frobenius=1e-3,
        answers=AnswerGate(agreement=0.999, error=2e-3, depth=1e-3),
    ),
    "fp16": Gate(
        cosine_mean=0.999,
        cosine_p01=0.995,
        frobenius=0.01,
        answers=AnswerGate(agreement=0.99, error=0.02, depth=0.005),
    ),
    "bf16": Gate(
        cosine_mean=0.999,
        cosine_p01=0.995,
        frobenius=0.03,
        answers=AnswerGate(agreement=0.97, error=0.06, depth=0.02),
    ),
    "int8": Gate(
        cosine_mean=0.995,
        cosine_p01=0.98,
        frobenius=0.2,
        answers=AnswerGate(agreement=0.95, error=0.3, depth=0.05),
    ),
}


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """How far a candidate is from its reference, over all cells of all images.

    Attributes:
        cosine_mean: mean per-cell cosine.
        cosine_p01: the 1st percentile of the per-cell cosines.
        centred_mean: mean cosine after the reference's mean feature is taken from both.
        frobenius: ||candidate - reference|| / ||reference||.
        max_abs: largest absolute difference.
        norm_error: of the worst cell, how far its length is from the reference's, relative to that.
        finite: no NaN and no Inf.
        images: how many images.
        answers: of the head; None where there is none.

    Where the artefact gives a head's answer alone, and where a map is not finite, all of these but `finite`, `images`
    and `answers` are NaN.
    """

    cosine_mean: float
    cosine_p01: float
    centred_mean: float
    frobenius: float
    max_abs: float
    finite: bool
    images: int
    norm_error: float
    answers: AnswerReport | None = None

    @property
    def has_features(self) -> bool:
        """Whether there are figures of features; a head's answer may be all that an artefact gives."""
        return self.answers is None or not math.isnan(self.cosine_mean)

    def passes(self, gate: Gate) -> bool:
        """Whether every bound of the gate holds, of the features and of the head's answers."""
        answers_ok = self.answers is None or not self.answers.shortfalls(gate.answers)
        return answers_ok and self.finite and (not self.has_features or self._features_pass(gate))

    def _features_pass(self, gate: Gate) -> bool:
        cosines_ok = self.cosine_mean >= gate.cosine_mean and self.cosine_p01 >= gate.cosine_p01
        return cosines_ok and self.frobenius <= gate.frobenius and self.norm_error <= gate.norm

    @property
    def line(self) -> str:
        """The figures, for people."""
        if not self.finite:
            return "NaN or Inf"
        cosines = f"cosine mean {self.cosine_mean:.6f}, worst 1 % {self.cosine_p01:.6f}"
        features = [f"{cosines}, relative error {self.frobenius:.1e}"] if self.has_features else []
        return ", ".join([*features, *([] if self.answers is None else [self.answers.line])])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; JSON has no NaN, so that figures of maps that are not finite are null."""
        record = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in dataclasses.asdict(self).items()
        }
        return record if self.answers is not None else {n: value for n, value in record.items() if n != "answers"}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ParityReport:
        """What `to_json` gave, for instance in another process; null is NaN again.

        Raises:
            BundleError: it is no such record.
        """
        figures = {name: math.nan if value is None and name != "answers" else value for name, value in record.items()}
        return fields_from_json(cls, figures)


def cells_of(output: NDArray[np.floating]) -> Cells:
    """Feature vectors of one image's output, (n, D).

    Args:
        output: (1, D, h, w) map, or (1, N, D) tokens; anything else counts as one vector.
    """
    if output.ndim == 4:
        return output[0].reshape(output.shape[1], -1).T
    return output[0] if output.ndim == 3 else output.reshape(1, -1)


def cosines(reference: Cells, candidate: Cells) -> NDArray[np.float64]:
    """Cosine of every cell, in double precision: differences of 1e-6 matter here; cells without length count as 0."""
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.einsum("ij,ij->i", a, b) / np.maximum(norms, 1e-30)


def cell_cosines(reference: NDArray[np.floating], candidate: NDArray[np.floating]) -> NDArray[np.float64]:
    """Per-cell cosine of two (1, D, h, w) maps, (h * w,)."""
    return cosines(cells_of(reference), cells_of(candidate))


def mean_cosine(reference: Sequence[Cells], candidate: Sequence[Cells]) -> float:
    """Mean cosine of all cells of all images."""
    return float(np.concatenate([cosines(a, b) for a, b in zip(reference, candidate, strict=True)]).mean())


def squared_error(reference: Sequence[Cells], candidate: Sequence[Cells]) -> float:
    """||candidate - reference||^2 / ||reference||^2 over all cells of all images."""
    error = sum(float(((b.astype(np.float64) - a) ** 2).sum()) for a, b in zip(reference, candidate, strict=True))
    return error / max(sum(float((a.astype(np.float64) ** 2).sum()) for a in reference), 1e-30)


def norm_error(reference: Sequence[Cells], candidate: Sequence[Cells]) -> float:
    """The worst cell's | ||candidate|| - ||reference|| | / ||reference||; 1 for a cell that is all zero.

    Cells shorter than a tenth of the mean are measured by that tenth.
    """
    wanted, given = (
        np.concatenate([np.linalg.norm(cells.astype(np.float64), axis=1) for cells in side])
        for side in (reference, candidate)
    )
    return float((np.abs(given - wanted) / np.maximum(wanted, max(0.1 * wanted.mean(), 1e-30))).max())


def compare(references: Sequence[NDArray[np.floating]], candidates: Sequence[NDArray[np.floating]]) -> ParityReport:
    """Compare maps of the same images.

    Args:
        references: (1, D, h, w) each.
        candidates: the same shapes.

    Raises:
        ParityError: shapes differ, or there is nothing to compare.
    """
    if not references or [r.shape for r in references] != [c.shape for c in candidates]:
        given = [c.shape for c in candidates][:2]
        raise ParityError(f"outputs of shape {given} cannot be compared with {[r.shape for r in references][:2]}")
    return compare_cells([cells_of(r) for r in references], [cells_of(c) for c in candidates])


def report_of_answers(answers: AnswerReport, images: int) -> ParityReport:
    """The report of an artefact that gives a head's answer alone.

    Args:
        answers: compared.
        images: how many.
    """
    return replace(_without_figures(images, answers.finite), answers=answers)


def _without_figures(images: int, is_finite: bool) -> ParityReport:
    nan = float("nan")
    return ParityReport(
        cosine_mean=nan,
        cosine_p01=nan,
        centred_mean=nan,
        frobenius=nan,
        max_abs=nan,
        finite=is_finite,
        images=images,
        norm_error=nan,
    )


def with_answers(report: ParityReport, answers: AnswerReport) -> ParityReport:
    """The report of an artefact that gives features, and a head's answer beside them."""
    return replace(report, answers=answers, finite=report.finite and answers.finite)


def compare_cells(references: Sequence[Cells], candidates: Sequence[Cells]) -> ParityReport:
    """Compare the same cells of the same images; image by image, so that doubles are never held of all."""
    pairs = list(zip(references, candidates, strict=True))
    if not all(np.isfinite(candidate).all() for candidate in candidates):
        return _without_figures(len(pairs), is_finite=False)
    raw = np.concatenate([cosines(a, b) for a, b in pairs])
    centre = np.average([a.mean(0, dtype=np.float64) for a in references], axis=0, weights=[len(a) for a in references])
    return ParityReport(
        cosine_mean=float(raw.mean()),
        cosine_p01=float(np.percentile(raw, WORST_PERCENT)),
        centred_mean=float(np.concatenate([cosines(a - centre, b - centre) for a, b in pairs]).mean()),
        frobenius=math.sqrt(squared_error(references, candidates)),
        max_abs=max(float(np.abs(b.astype(np.float64) - a).max()) for a, b in pairs),
        finite=True,
        images=len(pairs),
        norm_error=norm_error(references, candidates),
    )


def check_gate(report: ParityReport, precision: str, what: str) -> None:
    """Pass, or say by how much a gate was missed.

    Args:
        report: of the candidate.
        precision: a key of `GATES`.
        what: the artefact's name, for the message.

    Raises:
        ParityError: a bound does not hold.
    """
    gate = GATES[precision]
    if report.passes(gate):
        return
    if not report.finite:
        raise ParityError(f"{what}: its features hold NaN or Inf; try a wider precision, for instance bf16 or fp32")
    if report.answers is not None and (missed := report.answers.shortfalls(gate.answers)):
        raise ParityError(f"{what} answers otherwise than PyTorch, on {report.images} images: {'; '.join(missed)}")
    bounds = f"mean >= {gate.cosine_mean}, worst 1 % >= {gate.cosine_p01}, error <= {gate.frobenius}"
    raise ParityError(
        f"{what} differs from PyTorch: cosine mean {report.cosine_mean:.5f}, worst 1 % {report.cosine_p01:.5f}, "
        f"relative error {report.frobenius:.2e}, of a cell's length {report.norm_error:.2e}, "
        f"on {report.images} images; "
        f"{precision} asks {bounds}, of a cell's length <= {gate.norm}"
    )
