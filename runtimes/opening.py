"""From a user's MODEL to an opened engine: chosen, tried in order, proven, and what was not taken said in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from brixel_edge.errors import BackendMissing, BrixelError, BuildError, BundleError, MemoryBudgetError, ParityError
from brixel_edge.machine.processor import processor
from brixel_edge.model.agreement import check_graph_of_receipt
from brixel_edge.model.bundle import Bundle, ResolvedModel, open_bundle, resolve_model
from brixel_edge.model.graph_facts import graph_facts
from brixel_edge.model.halves import is_graph
from brixel_edge.runtimes.choice import Facts, engines_in_order, measured_here, missing_request, requested_choices
from brixel_edge.runtimes.engines import (
    AUTO,
    OPENERS,
    Engine,
    backends_of_graph,
    choose_backend,
    has_backend,
    open_runtime,
    preferred_backends,
)
from brixel_edge.runtimes.runtime import Runtime, RuntimeSettings

_LOG = logging.getLogger(__name__)
# After these the next engine is tried; a changed file, or a model that misses the user's budget, is the user's matter.
_NOT_HERE = (BackendMissing, BundleError, BuildError, MemoryBudgetError, ParityError)


@dataclass(frozen=True, kw_only=True)
class OpenedEngine:
    """An engine that runs, and may be believed as far as it says.

    Attributes:
        resolved: the model; its `graph` is the file that runs.
        backend: that runs it.
        precision: of the file.
        runtime: the opened engine.
        passed_over: what was to be taken before it, and why it was not.
    """

    resolved: ResolvedModel
    backend: str
    precision: str
    runtime: Runtime
    passed_over: tuple[str, ...] = ()


BeforeLoad = Callable[[ResolvedModel, str], None]


def open_engine_of_model(
    path: str | Path | None,
    backend: str,
    precision: str | None,
    settings: RuntimeSettings,
    before_load: BeforeLoad = lambda resolved, backend: None,
) -> OpenedEngine:
    """Open what a model directory, a bare graph or None stands for.

    Args:
        path: as in `open_model`.
        backend: `auto`, or the only one that may be taken.
        precision: the only one that may be taken; None for any.
        settings: of the engine.
        before_load: called with the model and the backend before an engine is loaded; may refuse the whole.

    Raises:
        BundleError: no model, a changed one, or none that the backend can run.
        BackendMissing: the backend is not installed.
        ParityError: every engine that runs here computes something else than PyTorch did.
    """
    if path is not None and Path(path).is_dir():
        return _open_directory(open_bundle(path), backend, precision, settings, before_load)
    resolved, chosen = resolve_model(path), choose_backend(backend)
    found = graph_facts(resolved.graph).precisions
    if precision not in (None, *found):
        raise BundleError(f"{resolved.graph} is {' and '.join(found)}, not {precision}; leave --precision out")
    before_load(resolved, chosen)
    runtime = open_runtime(resolved.graph, chosen, settings)
    return OpenedEngine(resolved=resolved, backend=chosen, precision=found[0], runtime=runtime)


def facts_of_directory(bundle: Bundle, backend: str, precision: str | None) -> Facts:
    """What the order of a directory's engines depends on, here.

    Raises:
        BackendMissing, SpecError: the backend that was named is not installed, or is none.
    """
    size = (bundle.spec.image.height, bundle.spec.image.width)
    engines = []
    for name in bundle.receipt.files:
        backends = ("trt",) if name.endswith(".plan") else backends_of_graph(name) if is_graph(name) else ()
        engines += [Engine(path=bundle.root / name, backend=entry, size=size) for entry in backends]
    return Facts(
        requested=requested_choices(bundle.receipt),
        engines=engines,
        installed=frozenset(name for name in OPENERS if has_backend(name)),
        preferred=preferred_backends(),
        p50_ms=measured_here(bundle.receipt, processor().name),
        proven=frozenset(bundle.receipt.parity),
        backend=None if backend == AUTO else choose_backend(backend),
        precision=precision,
    )


def _open_directory(
    bundle: Bundle, backend: str, precision: str | None, settings: RuntimeSettings, before_load: BeforeLoad
) -> OpenedEngine:
    facts = facts_of_directory(bundle, backend, precision)
    engines = engines_in_order(facts)
    if not engines:
        raise BundleError(_nothing_to_try(bundle, backend, precision))
    missing = missing_request(facts)
    asked = " and ".join(map(str, facts.requested))
    passed_over = [f"{asked}, which it was exported for, is not taken: {missing}"] if missing else []
    first_error: BrixelError | None = None
    for engine in engines:
        # Outside of the trial: a changed file is not passed over.
        file = bundle.graph(engine.path.name) if engine.backend != "trt" else _checked_plan(bundle, engine)
        resolved = ResolvedModel(graph=file, spec=bundle.spec, name=bundle.root.name, root=bundle.root)
        before_load(resolved, engine.backend)
        try:
            runtime = open_runtime(file, engine.backend, settings)
        except _NOT_HERE as error:
            first_error = first_error or error
            passed_over.append(f"{engine.name} is not taken: {' '.join(str(error).split())}")
            continue
        opened = OpenedEngine(
            resolved=resolved,
            backend=engine.backend,
            precision=engine.precision,
            runtime=runtime,
            passed_over=tuple(passed_over),
        )
        if passed_over:
            _LOG.warning("%s: %s; %s runs instead", bundle.root.name, "; ".join(passed_over), engine.name)
        return opened
    assert first_error is not None
    if len(engines) > 1:
        others = "; ".join(passed_over[-len(engines) + 1 :])
        raise type(first_error)(f"{first_error}. Nor does another engine of it: {others}") from first_error
    raise first_error


def _checked_plan(bundle: Bundle, engine: Engine) -> Path:
    """A plan, and the graph that it was built from, where that is there: the plan itself knows no channel order."""
    record = bundle.receipt.engines.get(engine.path.name)
    if record is not None and (bundle.root / record.graph).is_file():
        check_graph_of_receipt(bundle.root / record.graph, bundle.spec)
    return bundle.file(engine.path.name)


def _nothing_to_try(bundle: Bundle, backend: str, precision: str | None) -> str:
    there = ", ".join(name for name in sorted(bundle.receipt.files) if name.endswith(".plan") or is_graph(name))
    if backend == "trt":
        option = f"trt-{precision or 'fp16'}"
        return (
            f"{bundle.root} has no engine for this device (it has {there}); make one: brixel-export --engine {option}"
        )
    what = " ".join(filter(None, (precision, "graph", f"for {backend}" if backend != AUTO else "that runs here")))
    return f"{bundle.root} has no {what}; it has {there}, or export with --engine onnx-{precision or 'int8'}"
