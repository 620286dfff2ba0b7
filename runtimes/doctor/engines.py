"""Which engines of a model this machine can run, which not and why, and how far each is proven here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from brixel_edge.errors import BrixelError
from brixel_edge.machine.cuda import CudaDevice
from brixel_edge.machine.tensorrt import EngineKind
from brixel_edge.model.bundle import Bundle, open_bundle, resolve_model
from brixel_edge.model.engine_file import identity_from_name, read_report
from brixel_edge.runtimes.backends.first_load import cpu_place, evidence_so_far
from brixel_edge.runtimes.backends.trt_checks import misfit, place_of_plan
from brixel_edge.runtimes.choice import engines_in_order
from brixel_edge.runtimes.doctor.asking import Answer
from brixel_edge.runtimes.doctor.findings import Finding
from brixel_edge.runtimes.engines import Engine
from brixel_edge.runtimes.opening import facts_of_directory

TOPIC = "engine"
_LIBRARIES = {"ort": "onnxruntime", "openvino": "openvino"}
_UNPROVEN = "runs; it must reproduce the export's photographs at its first load here"


def engine_findings(model: Path | None, libraries: Mapping[str, Answer | None]) -> list[Finding]:
    """One for each engine, in the order in which brixel-run tries them; those that cannot run come last.

    Args:
        model: a model directory or bare graph; None is the built-in one.
        libraries: answers by `onnxruntime`, `openvino`, `trt`, `trt-rtx` and `gpu`; None where not installed.

    Raises:
        BundleError: no model there.
    """
    if model is None or not model.is_dir():
        return _of_graph(resolve_model(model).graph, "built in" if model is None else str(model), libraries)
    bundle = open_bundle(model)
    facts = facts_of_directory(bundle, "auto", None)
    tried = engines_in_order(facts)
    others = [engine for engine in facts.engines if engine not in tried]
    return [_of_engine(engine, bundle, libraries) for engine in (*tried, *others)]


def _of_graph(graph: Path, name: str, libraries: Mapping[str, Answer | None]) -> list[Finding]:
    """A bare graph carries no proof."""
    found = []
    for backend in ("ort", "openvino"):
        answer = libraries[_LIBRARIES[backend]]
        label = f"{graph.name} ({name}) on {backend}"
        if answer is None:
            continue
        reason = answer.failure
        text = f"{label}: {'no: ' + reason if reason else 'runs; a bare graph carries no proof'}"
        remedy = None if reason is None else _reinstalled(backend)
        found.append(_finding(label, text, runs=reason is None, proof="none", remedy=remedy))
    return found


def _finding(label: str, text: str, *, runs: bool, proof: str, remedy: str | None = None) -> Finding:
    facts = {"engine": label, "runs": runs, "proof": proof}
    return Finding(topic=TOPIC, state="ok" if runs else "no", text=text, remedy=remedy, facts=facts)


def _of_engine(engine: Engine, bundle: Bundle, libraries: Mapping[str, Answer | None]) -> Finding:
    label = engine.name
    try:
        bundle.file(engine.path.name)
    except BrixelError as error:
        remedy = f"copy {bundle.root} here again, or export it again"
        return _finding(label, f"{label}: {error}", runs=False, proof="none", remedy=remedy)
    if engine.backend == "trt":
        return _of_plan(engine, bundle, libraries)
    answer = libraries[_LIBRARIES[engine.backend]]
    if answer is None or answer.failure is not None:
        reason = "is not installed" if answer is None else f"does not load: {answer.failure}"
        text = f"{label}: {_LIBRARIES[engine.backend]} {reason}"
        remedy = _installed(engine.backend) if answer is None else _reinstalled(engine.backend)
        return _finding(label, text, runs=False, proof="none", remedy=remedy)
    for library, device, precision in _places(engine.backend, answer):
        place = cpu_place(engine.backend, library, device=device, float_precision=precision)
        evidence = evidence_so_far(engine.path, bundle, place)
        if evidence is not None:
            return _finding(label, f"{label}: runs; {evidence.text}", runs=True, proof=evidence.kind)
    return _finding(label, f"{label}: {_UNPROVEN}", runs=True, proof="at first load")


def _installed(backend: str) -> str:
    return f"pip install '{'brixel-edge[openvino]' if backend == 'openvino' else 'onnxruntime'}'"


def _reinstalled(backend: str) -> str:
    return f"pip install --force-reinstall {_LIBRARIES[backend]}"


def _places(backend: str, answer: Answer) -> list[tuple[str, str, str]]:
    """Library, device and float precision with which a backend may have noted a pass."""
    version = answer.facts["version"]
    if backend == "openvino":
        return [(f"OpenVINO {version}", "CPU", precision) for precision in ("f32", "bf16")]
    has_cuda = "CUDAExecutionProvider" in answer.facts["providers"]
    return [(f"ONNX Runtime {version}", device, "f32") for device in (["CUDA", "CPU"] if has_cuda else ["CPU"])]


def _of_plan(engine: Engine, bundle: Bundle, libraries: Mapping[str, Answer | None]) -> Finding:
    label, identity = engine.path.name, identity_from_name(engine.path.name)
    if identity is None:
        text, remedy = f"{label}: not named as a plan of brixel-export", f"brixel-export --from {bundle.root}"
        return _finding(label, text, runs=False, proof="none", remedy=f"on this device: {remedy} --engine trt-fp16")
    kind: EngineKind = identity.kind
    answer, gpu = libraries[kind], libraries["gpu"]
    rebuild = f"on this device: brixel-export --from {bundle.root} {identity.rebuild_option}"
    if answer is None or answer.failure is not None or gpu is None or gpu.failure is not None:
        missing = "TensorRT-RTX" if kind == "trt-rtx" else "TensorRT"
        missing = missing if answer is None or answer.failure else "a GPU through cuda-python"
        remedy = f"what stands under TensorRT and GPU above, then {rebuild}"
        return _finding(label, f"{label}: needs {missing}", runs=False, proof="none", remedy=remedy)
    reason = misfit(identity, read_report(engine.path), answer.facts["version"], gpu.facts["compute_capability"])
    if reason is not None:
        return _finding(label, f"{label}: {reason}", runs=False, proof="none", remedy=rebuild)
    device = CudaDevice(**gpu.facts).identity(answer.facts["build"])
    evidence = evidence_so_far(engine.path, bundle, place_of_plan(engine.path, device))
    if evidence is None:
        return _finding(label, f"{label}: {_UNPROVEN}", runs=True, proof="at first load")
    return _finding(label, f"{label}: runs; {evidence.text}", runs=True, proof=evidence.kind)
