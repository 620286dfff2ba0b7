"""The parity gate when an engine is first opened on a device: nobody need remember to ask for it.

An engine is right for one release and one card, and several releases give wrong results without a word. Where a model
directory carries its proof and its engine has not passed on this device, it must do so before the first frame; that it
did is written beside it, so that it is asked once. One that was proven by the export, on this very device, is not asked
again. Knows nothing of TensorRT.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from brixel_edge.errors import BundleError, ParityError, SpecError
from brixel_edge.machine.cuda import DeviceIdentity
from brixel_edge.model.bundle import MANIFEST_NAME
from brixel_edge.model.engine_file import EngineReport
from brixel_edge.model.receipt import read_receipt
from brixel_edge.proof.parity import GATES
from brixel_edge.proof.proof import PROOF_NAME, load_proof
from brixel_edge.runtimes.runtime import Runtime

LOGGER = logging.getLogger(__name__)


def passed_path(plan: Path) -> Path:
    """Where it is written that an engine passed."""
    return plan.with_name(f"{plan.name}.passed.json")


def prove_on_first_load(plan: Path, report: EngineReport | None, device: DeviceIdentity, runtime: Runtime) -> bool:
    """Run the gate, unless this engine has passed it on this device.

    Args:
        plan: of the engine, in a model directory; elsewhere there is nothing to compare with.
        report: of the plan; None for one without, which is proven at every load.
        device: that it runs on.
        runtime: the opened engine.

    Returns:
        whether the gate was run.

    Raises:
        ParityError: it computes something else here than PyTorch did.
        BundleError: the proof cannot be read.
    """
    proof_path = plan.with_name(PROOF_NAME)
    if not proof_path.is_file() or not plan.with_name(MANIFEST_NAME).is_file():
        return False
    own = _fingerprint(report, device)
    if _was_proven_by_the_export(plan, report, device) or (own is not None and _read(passed_path(plan)) == own):
        return False
    proof = load_proof(proof_path)
    precision = report.identity.precision if report else "fp16"
    result = proof.compare([runtime.infer(image[None])["features"] for image in proof.images])
    if not result.passes(GATES[precision]):
        figures = f"cosine mean {result.cosine_mean:.5f}, relative error {result.frobenius:.1e}"
        raise ParityError(
            f"{plan.name} computes something else on {device.name} than PyTorch did at the export "
            f"({figures if result.finite else 'NaN or Inf'}; {precision} gate); see brixel-verify {plan.parent}, and "
            "export the model again on this device"
        )
    LOGGER.info("%s: first load on %s, passed: cosine mean %.6f", plan.name, device.name, result.cosine_mean)
    if own is not None:
        with contextlib.suppress(OSError):  # a directory that is read only is asked again at the next load
            passed_path(plan).write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
    return True


def _fingerprint(report: EngineReport | None, device: DeviceIdentity) -> dict[str, Any] | None:
    """What a pass depends on."""
    if report is None:
        return None
    return {"engine_sha256": report.sha256, "device": dataclasses.asdict(device)}


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _was_proven_by_the_export(plan: Path, report: EngineReport | None, device: DeviceIdentity) -> bool:
    if report is None or report.device != device:
        return False
    with contextlib.suppress(BundleError, SpecError):
        engine = read_receipt(plan.with_name(MANIFEST_NAME)).engines.get(plan.name)
        return engine is not None and engine.proven and engine.report.sha256 == report.sha256
    return False
