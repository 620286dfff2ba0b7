"""Temporal economy: the backbone on every N-th frame, the adapter with the whole frame on each.

What a thing is changes slowly, where its edges are changes with every frame: the maps of the last backbone run are used
again until it is due. With N = 1 the two halves compute exactly what the one graph does.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing, BrixelError, BundleError, MemoryBudgetError, ParityError, SpecError
from brixel_edge.model.bundle import Bundle, ResolvedModel, open_bundle
from brixel_edge.model.halves import half_names
from brixel_edge.model.onnx_file import INPUT_NAME
from brixel_edge.runtimes.backends.first_load import proven
from brixel_edge.runtimes.backends.halves import Half, open_half
from brixel_edge.runtimes.choice import engines_in_order
from brixel_edge.runtimes.engines import Engine
from brixel_edge.runtimes.opening import BeforeLoad, OpenedEngine, facts_of_directory
from brixel_edge.runtimes.runtime import NO_EVIDENCE, Evidence, RuntimeSettings

_NOT_HERE = (BackendMissing, BundleError, MemoryBudgetError, ParityError)


class EconomicRuntime:
    """Two halves as one engine. Threads take turns: each frame uses the maps of an earlier one.

    Attributes:
        every: the backbone runs on every so many-th frame.
        evidence: why it may be believed here.

    Args:
        backbone: gives the maps.
        adapter: makes features of pixels and maps.
        every: see above.
    """

    evidence: Evidence = NO_EVIDENCE

    def __init__(self, backbone: Half, adapter: Half, every: int) -> None:
        self.every = every
        self._halves: tuple[Half, Half] | None = (backbone, adapter)
        self._turn = threading.Lock()
        self._maps: dict[str, NDArray[Any]] = {}
        self._age = 0

    def infer(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """(1, H, W, 3) uint8 -> outputs by name; see `Runtime.infer`."""
        with self._turn:
            if self._halves is None:
                raise SpecError("this runtime is closed; open it again")
            backbone, adapter = self._halves
            if not self._maps or self._age >= self.every:
                self._maps, self._age = backbone({INPUT_NAME: image}), 0
            self._age += 1
            return adapter({INPUT_NAME: image, **self._maps})

    def restart(self) -> None:
        """Forget the maps: the next frame is not the last one's successor."""
        with self._turn:
            self._maps = {}

    def close(self) -> None:
        """Free both, after the frame that another thread is in."""
        with self._turn:
            self._halves, self._maps = None, {}


def open_economic(
    path: str | Path | None,
    backend: str,
    precision: str | None,
    settings: RuntimeSettings,
    every: int,
    before_load: BeforeLoad = lambda resolved, backend: None,
) -> OpenedEngine:
    """Open the halves of a model directory; which, by the order of its engines (`brixel_edge.runtimes.choice`).

    Args:
        path: a model directory that was exported with --split.
        backend: `auto`, `ort` or `openvino`.
        precision: the only one that may be taken; None for any.
        settings: of both halves.
        every: the backbone runs on every so many-th frame.
        before_load: as in `open_engine_of_model`.

    Raises:
        SpecError: a number below 1, an adapter that does not read the frame, or a backend that runs no halves.
        BundleError: no directory, or one without halves.
        ParityError: none of them computes here what PyTorch did.
    """
    _check_request(path, backend, every)
    assert path is not None
    bundle = open_bundle(path)
    first: BrixelError | None = None
    passed_over: list[str] = []
    for engine in _engines_with_halves(bundle, backend, precision):
        backbone, adapter = (bundle.file(name) for name in half_names(engine.path.name))
        resolved = ResolvedModel(graph=adapter, spec=bundle.spec, name=bundle.root.name, root=bundle.root)
        before_load(resolved, engine.backend)
        try:
            runtime = _opened(bundle, backbone, adapter, engine.backend, settings, every)
        except _NOT_HERE as error:
            first = first or error
            passed_over.append(f"{adapter.name}, {engine.backend} is not taken: {' '.join(str(error).split())}")
            continue
        return OpenedEngine(
            resolved=resolved,
            backend=engine.backend,
            precision=engine.precision,
            runtime=runtime,
            passed_over=tuple(passed_over),
        )
    assert first is not None
    raise first


def require_one_source(count: int) -> None:
    """Maps of an earlier frame are those of the same source.

    Raises:
        SpecError: several share the engine.
    """
    if count > 1:
        raise SpecError(
            "--backbone-every (backbone_every=) uses maps of an earlier frame again, which must be of the same source; "
            f"give one source instead of {count}, or leave it out"
        )


def _check_request(path: str | Path | None, backend: str, every: int) -> None:
    """Refuse what can be told without reading anything.

    Raises:
        SpecError: a number below 1, or a backend that runs no halves.
        BundleError: no directory.
    """
    if every < 1:
        raise SpecError(f"backbone_every {every} is not at least 1; 1 runs the backbone on each frame")
    if backend == "trt":
        raise SpecError("--backbone-every is for ort and openvino, not for trt; leave one of them out")
    if path is None or not Path(path).is_dir():
        raise BundleError(
            f"{path or 'the built-in model'} is one graph; --backbone-every needs a model directory of "
            "brixel-export --split"
        )


def _engines_with_halves(bundle: Bundle, backend: str, precision: str | None) -> list[Engine]:
    """The engines of a directory whose graph is there as two, in their order.

    Raises:
        SpecError: its adapter does not read the frame.
        BundleError: there are none.
    """
    if bundle.spec.adapter == "none":
        raise SpecError(
            f"{bundle.root} has no adapter that reads the frame: between two runs of the backbone nothing would "
            "change; leave --backbone-every out"
        )
    engines = [
        engine
        for engine in engines_in_order(facts_of_directory(bundle, backend, precision))
        if engine.backend != "trt" and set(half_names(engine.path.name)) <= set(bundle.receipt.files)
    ]
    if not engines:
        raise BundleError(f"{bundle.root} has no halves that run here; export it again with --split")
    return engines


def _opened(
    bundle: Bundle, backbone: Path, adapter: Path, backend: str, settings: RuntimeSettings, every: int
) -> EconomicRuntime:
    """Both halves, proven as one engine with the backbone on every frame, as the export has proven them."""
    first, _ = open_half(backbone, backend, settings)
    second, place = open_half(adapter, backend, settings)
    digests = [bundle.receipt.files[path.name].sha256 for path in (backbone, adapter)]
    runtime = EconomicRuntime(first, second, every=1)
    place = dataclasses.replace(place, engine_sha256="+".join(digests))
    proven(adapter, runtime, place, settings)
    runtime.every = every
    runtime.restart()
    return runtime
