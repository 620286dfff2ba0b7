"""The proving process: one engine on the photographs of a proof, so that its memory ends with it.

Started as `python -m brixel_edge.runtimes.proving`.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from brixel_edge.errors import BackendMissing
from brixel_edge.machine.process import answering, ask
from brixel_edge.model.engine_file import identity_from_name
from brixel_edge.model.spec import ModelSpec
from brixel_edge.proof.parity import ParityReport
from brixel_edge.proof.proof import load_proof
from brixel_edge.runtimes.backends.trt import open_trt


def engine_parity(plan: Path, spec: ModelSpec, proof: Path) -> ParityReport | None:
    """How far an engine is from PyTorch on a proof; None for one of TensorRT-RTX where no such card is.

    Raises:
        BrixelError: why it does not run.
    """
    request = {"plan": str(plan.resolve()), "spec": spec.to_json(), "proof": str(proof.resolve())}
    try:
        answer = ask("brixel_edge.runtimes.proving", request, f"running {plan.name}")
    except BackendMissing:
        identity = identity_from_name(plan.name)
        # Only TensorRT-RTX gets so far without a GPU: it builds ahead of time.
        if identity is not None and identity.kind == "trt-rtx":
            return None
        raise
    return ParityReport.from_json(answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    proof = load_proof(Path(request["proof"]))
    with closing(open_trt(request["plan"], ModelSpec.from_json(request["spec"]))) as runtime:
        report = proof.compare([runtime.infer(image[None]) for image in proof.images])
    return report.to_json()


if __name__ == "__main__":
    sys.exit(answering(_answer))
