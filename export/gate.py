"""Whether a file passes its gate, and what the receipt says of it; no torch, no onnx."""

from __future__ import annotations

from collections.abc import Sequence

from brixel_edge.errors import ParityError
from brixel_edge.export.ladder import GateMissedError
from brixel_edge.model.json_form import fields_from_json
from brixel_edge.model.receipt_sections import Parity
from brixel_edge.model.spec import Precision
from brixel_edge.proof.parity import ParityReport, check_gate


def passed(name: str, precision: Precision, reports: dict[str, ParityReport], photographs: Sequence[str]) -> Parity:
    """The proof of a file that passes its gate wherever it ran.

    Args:
        name: of the file.
        precision: whose gate.
        reports: by what ran it; the first decides what stands at the record's top.
        photographs: that were compared.

    Raises:
        GateMissedError: one of them misses the gate.
    """
    figures = [{"backend": backend, **report.to_json()} for backend, report in reports.items()]
    others = {"photographs": list(photographs), "gate": precision, "also": figures[1:]}
    parity = fields_from_json(Parity, {**figures[0], **others})
    for backend, report in reports.items():
        try:
            check_gate(report, precision, f"{name} ({backend})")
        except ParityError as error:
            raise GateMissedError(str(error), {name: parity}) from error
    return parity
