"""The parity gate when an engine is first opened on a device: nobody need remember to ask for it.

The same file computes something else elsewhere: several TensorRT releases give wrong results without a word, and one
INT8 graph that OpenVINO runs rightly on x86 comes out with a cosine of 0.84 on a Cortex-A72. Where a model directory
carries its proof and its engine has not passed on this device, it must do so before the first frame; that it did is
noted, so that it is asked once. A plan that was proven by the export, on this very device, is not asked again.
Knows nothing of any backend's library.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from brixel_edge.errors import ParityError
from brixel_edge.machine.processor import processor
from brixel_edge.model.bundle import MANIFEST_NAME, Bundle, open_bundle
from brixel_edge.model.engine_file import identity_from_name
from brixel_edge.proof.parity import GATES, ParityReport
from brixel_edge.proof.proof import PROOF_NAME, Proof, load_proof
from brixel_edge.proof.references import Outputs
from brixel_edge.runtimes.backends.passes import note_pass, noted_pass, passed_path
from brixel_edge.runtimes.runtime import NO_EVIDENCE, Evidence, Runtime, RuntimeSettings

LOGGER = logging.getLogger(__name__)

# Photographs of the proof are taken until so much time is spent, one at least: a gate is a statistic over the up to
# 4096 cells of each, and a wrong kernel shows in any of them. Measured with the built-in model, on two x86 cores with a
# load of 15: 0.6 to 1.0 s for three photographs, 1 to 7 ms where a pass is noted.
GATE_S = 1.0

Opened = TypeVar("Opened", bound=Runtime)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an engine runs.

    Attributes:
        backend: `ort`, `openvino` or `trt`.
        label: for people.
        facts: what a pass depends on beside the engine's file.
        engine_sha256: of the file; None takes what the receipt says of it.
        is_noted: False where too little is known of the engine to know it again.
        is_proven_by_export: the export has proven this file on this very device.
    """

    backend: str
    label: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    engine_sha256: str | None = None
    is_noted: bool = True
    is_proven_by_export: bool = False


def cpu_place(backend: str, library: str, *, device: str = "CPU", float_precision: str = "f32") -> Place:
    """Where a CPU backend runs.

    Args:
        backend: `ort` or `openvino`.
        library: its name and version.
        device: `CPU`, or what the library itself took.
        float_precision: in what it computes what is not integer, `f32` or `bf16`.
    """
    here = processor()
    facts = {
        "backend": library,
        "device": device,
        "processor": here.name,
        "architecture": here.architecture,
        "processor_features": here.features,
        "float_precision": float_precision,
    }
    return Place(backend=backend, label=f"{library}, {here}", facts=facts)


def proven(engine: Path, runtime: Opened, place: Place, settings: RuntimeSettings) -> Opened:
    """Hand out an opened engine that may be believed here; one that may not is closed.

    Args:
        engine: its file, in a model directory; elsewhere there is nothing to compare with.
        runtime: the opened engine; its `evidence` is set.
        place: where it runs.
        settings: whether it must be proven.

    Raises:
        ParityError: it computes something else here than PyTorch did.
        BundleError: the receipt or the proof cannot be read, or was changed.
    """
    if not settings.is_proven_first or not engine.with_name(MANIFEST_NAME).is_file():
        return runtime
    try:
        runtime.evidence = _evidence(engine, runtime, place)
    except BaseException:
        runtime.close()
        raise
    return runtime


def evidence_so_far(engine: Path, bundle: Bundle, place: Place) -> Evidence | None:
    """Why an engine may be believed at a place, without running it; None where it would have to pass its gate first."""
    if PROOF_NAME not in bundle.receipt.files:
        return NO_EVIDENCE
    if place.is_proven_by_export:
        return Evidence(kind="export", text="proven by the export, on this device")
    fingerprint = _fingerprint(engine, bundle, place)
    path = passed_path(engine, place.backend)
    if fingerprint is not None and (noted := noted_pass(path, fingerprint)) is not None:
        return Evidence(kind="noted", text=f"proven here at an earlier load ({_figures(noted)})")
    return None


def _evidence(engine: Path, runtime: Runtime, place: Place) -> Evidence:
    bundle = open_bundle(engine.parent)
    if (evidence := evidence_so_far(engine, bundle, place)) is not None:
        return evidence
    fingerprint = _fingerprint(engine, bundle, place)
    path = passed_path(engine, place.backend)
    precision = _gate(engine, bundle, place)
    report = _compared(load_proof(bundle.file(PROOF_NAME)), runtime)
    if not report.passes(GATES[precision]):
        raise ParityError(
            f"{engine.name} computes something else on {place.label} than PyTorch did at the export "
            f"({report.line}; {precision} gate); see brixel-verify {engine.parent}, and "
            "export the model again on this device"
        )
    figures: dict[str, Any] = {"photographs": report.images}
    if report.has_features:
        figures = {"cosine_mean": report.cosine_mean, **figures}
    if report.answers is not None:
        figures["answers"] = report.answers.line
    LOGGER.info("%s: first load on %s, passed: %s", engine.name, place.label, _figures(figures))
    if fingerprint is not None:
        note_pass(path, fingerprint, figures)
    return Evidence(kind="now", text=f"proven here at this first load ({_figures(figures)})")


def _fingerprint(engine: Path, bundle: Bundle, place: Place) -> dict[str, Any] | None:
    """What a pass depends on."""
    recorded = bundle.receipt.files.get(engine.name)
    digest = place.engine_sha256 or (recorded.sha256 if recorded else None)
    return {"engine_sha256": digest, **place.facts} if place.is_noted and digest is not None else None


def _gate(engine: Path, bundle: Bundle, place: Place) -> str:
    """Whose gate an engine must pass: the export's, else as its name says, else fp16's; bf16's if it computes so."""
    identity = identity_from_name(engine.name)
    named = identity.precision if identity is not None else next(iter(engine.name.split(".")[1:]), "")
    if engine.name in bundle.receipt.parity:
        named = bundle.receipt.parity[engine.name].gate
    if place.facts.get("float_precision") == "bf16" and named != "int8":
        return "bf16"
    return named if named in GATES else "fp16"


def _compared(proof: Proof, runtime: Runtime) -> ParityReport:
    candidates: list[Outputs] = []
    start_s = time.monotonic()
    for image in proof.images:
        candidates.append(runtime.infer(image[None]))
        if time.monotonic() - start_s >= GATE_S:
            break
    return proof.first(len(candidates)).compare(candidates)


def _figures(record: Mapping[str, Any]) -> str:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        count = record["photographs"]
        parts = [f"cosine mean {record['cosine_mean']:.5f}"] if "cosine_mean" in record else []
        parts += [str(record["answers"])] if "answers" in record else []
        return f"{', '.join(parts)} on {count} photograph{'s' if count != 1 else ''}"
    return "figures unknown"
