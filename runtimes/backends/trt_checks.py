"""Whether a TensorRT plan is the right one: for this device and release, for its report, for its model.

Knows nothing of TensorRT's API; every refusal says what to type to rebuild.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from brixel_edge.errors import BackendMissing, BundleError
from brixel_edge.machine.cuda import JETSON_CAPABILITIES, CudaDevice, DeviceIdentity
from brixel_edge.machine.tensorrt import EngineKind
from brixel_edge.model.bundle import open_bundle
from brixel_edge.model.engine_file import (
    EngineIdentity,
    EngineReport,
    EngineTensor,
    identity_from_name,
    read_report,
)
from brixel_edge.model.spec import ANSWER, FEATURES, ModelSpec, Precision
from brixel_edge.runtimes.backends.first_load import Place
from brixel_edge.runtimes.runtime import MATERIALISED_PREFIX

LOGGER = logging.getLogger(__name__)

INPUT_NAME = "image"


def plan_of_graph(graph: Path, device_identity: Callable[[EngineKind], tuple[str, int]]) -> Path:
    """The plan beside a graph that was built for this device.

    Args:
        graph: `graph.<precision>.onnx`; an engine of that precision comes first, then fp16, bf16, fp32, int8.
        device_identity: gives (TensorRT version, compute capability) of a kind here.

    Raises:
        BundleError: there is none.
    """
    plans = {path: identity_from_name(path.name) for path in sorted(graph.parent.glob("engine.*.plan"))}
    here: dict[EngineKind, tuple[str, int]] = {}
    for kind in get_args(EngineKind):
        if any(identity is not None and identity.kind == kind for identity in plans.values()):
            with contextlib.suppress(BackendMissing):  # the plans of the other kind may do
                here[kind] = device_identity(kind)
    fitting = {
        identity.precision: path
        for path, identity in plans.items()
        if identity is not None
        and identity.kind in here
        and misfit(identity, read_report(path), *here[identity.kind]) is None
    }
    named = [precision for precision in get_args(Precision) if graph.name == f"graph.{precision}.onnx"]
    for precision in (*named, "fp16", "bf16", "fp32", "int8"):
        if precision in fitting:
            return fitting[precision]
    others = f"it has {', '.join(path.name for path in plans)}" if plans else "it has no engine"
    raise BundleError(
        f"{graph.parent} has no engine for this device ({others}); make one: brixel-export ... --engine trt-fp16"
    )


def misfit(identity: EngineIdentity, report: EngineReport | None, version: str, capability: int) -> str | None:
    """Why a plan cannot run with a TensorRT release on a GPU; None if it can.

    Args:
        identity: of the plan.
        report: of the plan, which may widen what its name says.
        version: of TensorRT here.
        capability: of the GPU here, 87 for SM 8.7.
    """
    targets = identity.compute_capabilities
    # Hardware compatibility is for discrete GPUs; on a Jetson neither to build for nor to run by.
    is_jetson = bool(JETSON_CAPABILITIES & {capability, *targets})
    is_compatible = report is not None and report.hardware_compatibility == "ampere+" and not is_jetson
    takes_others = is_compatible and min(capability, *targets) >= 80
    if capability not in targets and not takes_others:
        return f"was built for {' and '.join(f'SM {target}' for target in targets)}, this device is SM {capability}"
    takes_later = report is not None and report.is_version_compatible and _is_later(version, identity.version)
    if version != identity.version and not takes_later:
        return f"was built by TensorRT {identity.version}, here is {version}"
    return None


def place_of_plan(plan: Path, device: DeviceIdentity) -> Place:
    """The device, and whether the export has proven the plan on it; without a report it is proven at every load."""
    report = read_report(plan)
    if report is None:
        return Place(backend="trt", label=device.name, is_noted=False)
    engine = open_bundle(plan.parent).receipt.engines.get(plan.name)
    is_the_export_s = engine is not None and engine.proven and engine.report.sha256 == report.sha256
    return Place(
        backend="trt",
        label=device.name,
        facts={"device": dataclasses.asdict(device)},
        engine_sha256=report.sha256,
        is_proven_by_export=is_the_export_s and report.device == device,
    )


def check_identity(
    name: str, identity: EngineIdentity, report: EngineReport | None, version: str, device: CudaDevice, rebuild: str
) -> None:
    """Refuse a plan of another TensorRT release or GPU, and warn of another card of the same kind.

    Raises:
        BundleError: it is one.
    """
    reason = misfit(identity, report, version, device.compute_capability)
    if reason is not None:
        raise BundleError(f"{name} {reason} ({device.name}); {rebuild}")
    if report is not None and report.device_name not in (None, device.name):
        LOGGER.warning("%s was built on %s, this is %s: it may be slow here", name, report.device_name, device.name)


def _is_later(version: str, built: str) -> bool:
    """Whether a release may run a version-compatible plan: not an earlier one, and not 11 for one of 8."""
    own, other = ([int(part) for part in text.split(".") if part.isdecimal()] for text in (version, built))
    return own >= other and own[0] - other[0] <= (2 if other[0] == 8 else 1)


def check_tensors(
    name: str,
    tensors: tuple[EngineTensor, ...],
    report: EngineReport | None,
    spec: ModelSpec | None,
    rebuild: str,
) -> list[str]:
    """Compare what an engine really has with what it should have.

    Returns:
        the outputs to hand out.

    Raises:
        BundleError: another input, no features, other types or shapes than the report or the spec says.
    """
    inputs = [tensor for tensor in tensors if tensor.is_input]
    outputs = {tensor.name: tensor for tensor in tensors if not tensor.is_input}
    told = ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in tensors)
    image = inputs[0] if len(inputs) == 1 and inputs[0].name == INPUT_NAME else None
    if image is None or image.dtype != "uint8" or len(image.shape) != 4 or image.shape[3] != 3 or min(image.shape) < 1:
        raise BundleError(f"{name} does not take one image, uint8 (1, H, W, 3), but has {told}; {rebuild}")
    wanted = tuple(spec.outputs) if spec is not None else next(((o,) for o in (FEATURES, ANSWER) if o in outputs), ())
    maps = [outputs[output] for output in wanted if output in outputs]
    are_maps = all(found.dtype in ("fp32", "fp16", "bf16") and len(found.shape) == 4 for found in maps)
    if not wanted or len(maps) < len(wanted) or not are_maps:
        what = " and ".join(wanted) or FEATURES
        raise BundleError(f"{name} gives no {what}, float (1, D, h, w), but has {told}; {rebuild}")
    if report is not None and {*report.tensors} != {*tensors}:
        wanted = ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in report.tensors)
        raise BundleError(f"{name} has {told}, its report says {wanted}; {rebuild}")
    if spec is not None:
        _check_spec(name, image, maps, spec, rebuild)
    return [output for output in outputs if not output.startswith(MATERIALISED_PREFIX)]


def _check_spec(name: str, image: EngineTensor, maps: Sequence[EngineTensor], spec: ModelSpec, rebuild: str) -> None:
    wanted = ((spec.image.height, spec.image.width), *(shape[1:] for shape in spec.outputs.values()))
    found = (image.shape[1:3], *(tensor.shape[1:] for tensor in maps))
    if wanted != found:
        raise BundleError(f"{name} maps pixels, {' and '.join(spec.outputs)} {found}, its model {wanted}; {rebuild}")
