"""What an artefact is compared with: PyTorch's features, its head's answers, or both, as the artefact gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.model.head_spec import HeadKind
from brixel_edge.model.spec import ANSWER, FEATURES
from brixel_edge.proof.answers import compare_answers
from brixel_edge.proof.parity import ParityReport, compare, report_of_answers, with_answers

Maps = Sequence[NDArray[np.floating]]
Outputs = Mapping[str, NDArray[Any]]  # of one image: (1, channels, h, w) by name


@dataclass(frozen=True, kw_only=True)
class References:
    """Maps of some images by PyTorch in fp32; at least one of the two is there.

    Attributes:
        features: (1, D, h, w) each; None where the artefact gives none.
        answers: (1, K, h, w) each; None without a head.
        kind: of the head; None without one.
    """

    features: Maps | None = field(default=None, repr=False)
    answers: Maps | None = field(default=None, repr=False)
    kind: HeadKind | None = None

    def compare(self, outputs: Sequence[Outputs]) -> ParityReport:
        """How far an artefact's outputs of the same images are from these.

        Raises:
            ParityError: maps of another shape.
        """
        report = None
        if self.features is not None:
            report = compare(self.features, [output[FEATURES] for output in outputs])
        if self.answers is None or self.kind is None:
            assert report is not None
            return report
        answers = compare_answers(self.kind, self.answers, [output[ANSWER] for output in outputs])
        return report_of_answers(answers, len(outputs)) if report is None else with_answers(report, answers)
