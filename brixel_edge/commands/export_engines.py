"""TensorRT engines for brixel-export: built by the export side, run by the runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing
from brixel_edge.export.engine.settings import EngineSettings
from brixel_edge.export.engine.to_engine import engine_from_onnx
from brixel_edge.export.judges import Features
from brixel_edge.export.prove import FileFacts, Prover
from brixel_edge.machine.tensorrt import EngineKind
from brixel_edge.model.engine_file import EngineReport
from brixel_edge.model.receipt_sections import EngineCost, EngineRecord
from brixel_edge.model.spec import ModelSpec, Precision
from brixel_edge.runtimes.backends.trt import open_trt


class EngineBuilder(Protocol):
    """Compiles a proven graph for a device, and runs the result if this machine can."""

    def build(self, graph: Path, precision: Precision, out: Path) -> tuple[Path, EngineReport]:
        """The engine's file in `out` and its report.

        Raises:
            BuildError: the compiler refused.
        """
        ...

    def features(self, engine: Path, images: Sequence[NDArray[np.uint8]]) -> Features | None:
        """What the engine computes; None where this machine cannot run it (built ahead of time for another)."""
        ...


@dataclass(frozen=True, kw_only=True)
class TensorRtBuilder:
    """Builds engines of one kind, and runs them where this machine can.

    Attributes:
        kind: TensorRT or TensorRT-RTX.
        spec: of the model.
        settings: of the builder.
        earlier: directory of an earlier export, whose timing caches are used again.
        caches: timing caches by file name, the newest that is known; every build of an export starts with them.
    """

    kind: EngineKind
    spec: ModelSpec
    settings: EngineSettings
    earlier: Path | None = None
    caches: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.earlier is not None:
            self._learn(self.earlier)

    def build(self, graph: Path, precision: Precision, out: Path) -> tuple[Path, EngineReport]:
        """See `EngineBuilder.build`."""
        if self.settings.timing_cache_dir is None:
            for name, content in self.caches.items():
                (out / name).write_bytes(content)
        try:
            built = engine_from_onnx(
                graph, self.spec, precision=precision, out=out, kind=self.kind, settings=self.settings
            )
        finally:
            self._learn(out)
        return built.plan, built.report

    def _learn(self, folder: Path) -> None:
        self.caches.update({path.name: path.read_bytes() for path in folder.glob("timing.*.cache")})

    def features(self, engine: Path, images: Sequence[NDArray[np.uint8]]) -> Features | None:
        """See `EngineBuilder.features`."""
        try:
            runtime = open_trt(engine, self.spec)
        except BackendMissing:
            # Only TensorRT-RTX gets so far without a GPU: it builds ahead of time.
            if self.kind == "trt-rtx":
                return None
            raise
        try:
            return [runtime.infer(image)["features"] for image in images]
        finally:
            runtime.close()


def proven_engine(
    graph: Path, precision: Precision, builder: EngineBuilder, prover: Prover
) -> tuple[tuple[Path, ...], dict[str, FileFacts]]:
    """Build the engine of a graph beside it, and prove it if it runs here.

    Returns:
        the files that this gave, and what the receipt says of the engine.

    Raises:
        BuildError: it could not be built.
        GateMissedError: it does not compute what PyTorch does.
    """
    prover.say(f"building the engine of {graph.name}")
    before = set(graph.parent.iterdir())
    with prover.watch.timed("engine"):
        engine, report = builder.build(graph, precision, graph.parent)
    features = builder.features(engine, prover.photographs.pixels)
    backend = f"{report.identity.kind} {report.identity.version}"
    facts = FileFacts(
        parity=None if features is None else prover.parity(engine, precision, {backend: features}),
        engine=EngineRecord(
            backend=backend, graph=graph.name, report=report.without_measured(), proven=features is not None
        ),
        cost=EngineCost(build_s=report.build_s, peak_host_bytes=report.peak_host_bytes),
    )
    return tuple(sorted(set(graph.parent.iterdir()) - before)), {engine.name: facts}
