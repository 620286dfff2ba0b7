"""The building process: one ONNX graph to one plan, told in JSON lines on its standard output.

It runs by itself (`python -m brixel_edge.export.engine.build REQUEST.json`) because a TensorRT build can take all of
a small board's memory: the kernel then kills this process and not the exporter, which lives to say what to do. It
imports neither torch nor onnx, to leave that memory to TensorRT.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brixel_edge.errors import BrixelError, BuildError, BundleError, MemoryBudgetError, SpecError
from brixel_edge.export.engine.dialect import (
    Dialect,
    apply_settings,
    dialect_of,
    network_flags,
    set_precision_flags,
    typings_of,
    typings_to_try,
)
from brixel_edge.export.engine.known_bad import graph_patterns, known_bad
from brixel_edge.export.engine.log import BuildLog, Emit, locked, monitor_for
from brixel_edge.export.engine.memory import (
    LEVERS,
    EngineMemory,
    buffer_bytes,
    build_memory,
    check_memory,
    default_workspace,
)
from brixel_edge.export.engine.network import network_layer_types, network_tensors, parse_graph, pin_float_layers
from brixel_edge.export.engine.settings import BuildRequest, EngineSettings
from brixel_edge.export.engine.target import BuildTarget
from brixel_edge.export.engine.timing_cache import attach_timing_cache, save_timing_cache, timing_cache_name
from brixel_edge.machine.cuda import CudaDevice, DeviceIdentity, current_device, import_cudart
from brixel_edge.machine.files import sha256_of
from brixel_edge.machine.memory import peak_rss_bytes
from brixel_edge.machine.tensorrt import full_build, import_tensorrt
from brixel_edge.model.engine_file import (
    BuildAttempt,
    EngineIdentity,
    EngineReport,
    EngineTensor,
    Typing,
)
from brixel_edge.model.graph_facts import GraphFacts, graph_facts


@dataclass(frozen=True, kw_only=True)
class _Built:
    """What one attempt gives."""

    typing: Typing
    tensors: tuple[EngineTensor, ...]
    layer_types: dict[str, int]
    pinned_layers: int
    build_s: float


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What all attempts of a build share."""

    dialect: Dialect
    device: CudaDevice | None
    device_identity: DeviceIdentity | None
    request: BuildRequest
    settings: EngineSettings
    facts: GraphFacts
    timing_cache: Path | None
    log: BuildLog
    emit: Emit


def build(request: BuildRequest, emit: Emit) -> EngineReport:
    """Build the requested plan into its temporary file.

    Raises:
        BackendMissing: no TensorRT, no cuda-python or no device.
        BuildError: TensorRT refused the graph, the settings or the build.
        MemoryBudgetError: the engine needs more than it was given, or TensorRT ran out of memory.
    """
    session = _session(request, locked(emit))
    identity = _identity(session)
    target = BuildTarget(
        kind=identity.kind,
        version=identity.version,
        compute_capabilities=identity.compute_capabilities,
        precision=identity.precision,
    )
    troubles = tuple(row.line for row in known_bad(target, graph_patterns(session.facts)))
    for line in troubles:
        session.emit({"event": "warning", "message": line})
    built, attempts = _first_that_builds(session)
    memory = EngineMemory(
        weights_bytes=session.log.memory_bytes.get("Weights", request.plan.stat().st_size),
        activation_bytes=session.log.memory_bytes.get("Activation", 0),
        buffer_bytes=buffer_bytes(built.tensors),
    )
    check_memory(memory, session.settings.max_memory_bytes)
    return EngineReport(
        identity=identity,
        size_bytes=request.plan.stat().st_size,
        sha256=sha256_of(request.plan),
        graph_sha256=sha256_of(request.graph),
        device_name=session.device.name if session.device else None,
        cuda_version=session.device.cuda_version if session.device else None,
        typing=built.typing,
        pinned_layers=built.pinned_layers,
        optimization_level=session.settings.optimization_level,
        workspace_bytes=session.settings.workspace_bytes,
        weights_bytes=session.log.memory_bytes.get("Weights"),
        activation_bytes=session.log.memory_bytes.get("Activation"),
        build_s=round(built.build_s, 3),
        peak_host_bytes=peak_rss_bytes() or 0,
        tensors=built.tensors,
        layer_types=built.layer_types,
        hardware_compatibility=session.settings.hardware_compatibility,
        is_version_compatible=session.settings.is_version_compatible,
        timing_cache=session.timing_cache.name if session.timing_cache else None,
        attempts=attempts,
        warnings=(*troubles, *session.log.warnings),
        device=session.device_identity,
        other_typings=tuple(typing for typing in typings_of(session.dialect) if typing != built.typing) or None,
    )


def _session(request: BuildRequest, emit: Emit) -> _Session:
    dialect = dialect_of(import_tensorrt(request.kind, f"--engine {request.kind}"))
    emit({"event": "start", "version": dialect.version, "has_phases": dialect.has_progress_monitor})
    device = None if dialect.is_ahead_of_time else current_device(import_cudart())
    settings, timing_cache, identity = request.settings, None, None
    settings.check(request.kind, device.compute_capability if device else None)
    if device is not None:
        folder = settings.timing_cache_dir or request.plan.parent
        identity = device.identity(full_build(dialect.module, request.kind))
        timing_cache = folder / timing_cache_name(identity)
        if settings.workspace_bytes is None:
            settings = replace(
                settings, workspace_bytes=default_workspace(build_memory(device), settings.max_memory_bytes)
            )
    return _Session(
        dialect=dialect,
        device=device,
        device_identity=identity,
        request=request,
        settings=settings,
        facts=graph_facts(request.graph),
        timing_cache=timing_cache,
        log=BuildLog(dialect.module, emit),
        emit=emit,
    )


def _identity(session: _Session) -> EngineIdentity:
    """The plan's target, checked against what the target's hardware can do.

    Raises:
        BuildError: the device has no such arithmetic.
    """
    capabilities = (session.device.compute_capability,) if session.device else session.settings.rtx_capabilities
    precision = session.request.precision
    if precision == "bf16" and min(capabilities) < 80:
        raise BuildError(f"SM {min(capabilities)} has no bf16 (that needs SM 80 or later); use --engine trt-fp16")
    if session.device is None:
        check_rtx_graph(session.facts, session.request.graph.name, capabilities)
    return EngineIdentity(
        kind=session.request.kind,
        compute_capabilities=tuple(sorted(capabilities)),
        version=session.dialect.version,
        precision=precision,
    )


def check_rtx_graph(facts: GraphFacts, name: str, capabilities: Sequence[int]) -> None:
    """Refuse at once what TensorRT-RTX would refuse after every plan: it has no fp32 products for Turing.

    Raises:
        SpecError: the graph has some, and a card of Turing is among those that it is built for.
    """
    products = sum(node.dtype == "fp32" and node.operator in ("MatMul", "Gemm", "Conv") for node in facts.nodes)
    if min(capabilities) < 80 and products:
        raise SpecError(
            f"TensorRT-RTX has no fp32 products for SM 75 (Turing), {name} keeps {products} of them in fp32; leave 75 "
            "out of --rtx-sm"
        )


def _first_that_builds(session: _Session) -> tuple[_Built, tuple[BuildAttempt, ...]]:
    """Try the release's typings in order; running out of memory ends it, as the next would run out too."""
    attempts: list[BuildAttempt] = []
    for typing in typings_to_try(session.dialect, session.settings):
        try:
            built = _build_once(session, typing)
        except BuildError as error:
            attempts.append(BuildAttempt(typing=typing, error=str(error)))
            session.emit({"event": "warning", "message": f"{typing} typing failed: {error}"})
            session.log.forget()
            continue
        attempts.append(BuildAttempt(typing=typing, error=None))
        return built, tuple(attempts)
    if len(attempts) == 1:
        raise BuildError(str(attempts[0].error))
    raise BuildError("; ".join(f"{attempt.typing} typing: {attempt.error}" for attempt in attempts))


def _build_once(session: _Session, typing: Typing) -> _Built:
    """Parse and build with one typing; the plan is written, all of TensorRT's objects are gone at the end."""
    dialect, log, precision = session.dialect, session.log, session.request.precision
    builder = _builder(session)
    config = builder.create_builder_config()
    # What the release or the board lacks is refused before the graph is read.
    apply_settings(dialect, builder, config, session.settings)
    if typing == "weak":
        set_precision_flags(dialect, config, precision, session.facts)
    network = builder.create_network(network_flags(dialect, typing))
    refusal = parse_graph(dialect, network, log, session.request.graph)
    if refusal is not None:
        raise _failure(log, f"{dialect.label} cannot read the graph: {refusal}")
    pinned = pin_float_layers(dialect, network, session.facts) if typing == "weak" else 0
    monitor = monitor_for(dialect.module, session.emit)
    if monitor is not None:
        config.progress_monitor = monitor
    if session.timing_cache is not None:
        attach_timing_cache(config, session.timing_cache, session.emit)
    begin_s = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    build_s = time.perf_counter() - begin_s
    if plan is None:
        raise _failure(log, f"{dialect.label} did not build the graph: {log.reason()}")
    session.request.plan.write_bytes(memoryview(plan))
    if session.timing_cache is not None:
        save_timing_cache(config, session.timing_cache)
    return _Built(
        typing=typing,
        tensors=network_tensors(network),
        layer_types=network_layer_types(network),
        pinned_layers=pinned,
        build_s=build_s,
    )


def _builder(session: _Session) -> Any:
    try:
        return session.dialect.module.Builder(session.log.logger)
    except (TypeError, RuntimeError) as error:  # pybind's words for a constructor that gave no object
        raise _failure(session.log, f"{session.dialect.label} cannot start: {session.log.reason()}") from error


def _failure(log: BuildLog, message: str) -> BrixelError:
    if log.has_run_out_of_memory:
        return MemoryBudgetError(f"TensorRT ran out of device memory while building ({log.reason()}); {LEVERS}")
    if "libnvinfer_lean" in message:
        message += (
            "; a version-compatible plan holds that library: apt install libnvinfer-lean10, or leave the option out"
        )
    return BuildError(message)


def _volunteer_for_the_oom_killer() -> None:
    """Let the kernel take this process first, and not the exporter or the user's desktop."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the request file asks; the last JSON line is `built` with a report, or `failed` with an error."""
    (request_path,) = sys.argv[1:] if arguments is None else arguments
    # TensorRT's libraries may print; only our lines may reach the pipe.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)

        def emit(event: dict[str, Any]) -> None:
            pipe.write(json.dumps(event) + "\n")
            pipe.flush()

        _volunteer_for_the_oom_killer()
        request = BuildRequest.from_json(json.loads(Path(request_path).read_text(encoding="utf-8")))
        try:
            report = build(request, emit)
        except BrixelError as error:
            emit({"event": "failed", "error": type(error).__name__, "message": str(error)})
            return error.exit_code
        except OSError as error:  # a full disk: no other graph would help
            message = f"{request.plan.parent.parent} cannot be written: {error.strerror}; free some space there"
            emit({"event": "failed", "error": BundleError.__name__, "message": message})
            return BundleError.exit_code
        emit({"event": "built", "report": report.to_json()})
        return 0


if __name__ == "__main__":
    sys.exit(main())
