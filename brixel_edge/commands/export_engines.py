"""TensorRT engines for brixel-export: built by the export side, run by the runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from brixel_edge.errors import BackendMissing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from brixel_edge.export.engine.settings import EngineSettings
    from brixel_edge.machine.tensorrt import EngineKind
    from brixel_edge.model.engine_file import EngineReport
    from brixel_edge.model.spec import ModelSpec, Precision


@dataclass(frozen=True, kw_only=True)
class TensorRtMaker:
    """Builds engines of one kind, and runs them where this machine can.

    Attributes:
        kind: TensorRT or TensorRT-RTX.
        spec: of the model.
        settings: of the builder.
        earlier: directory of an earlier export, whose timing caches are used again.
        caches: timing caches by file name, the newest that is known; every plan of an export starts with them.
    """

    kind: EngineKind
    spec: ModelSpec
    settings: EngineSettings
    earlier: Path | None = None
    caches: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.earlier is not None:
            self._learn(self.earlier)

    def make(self, graph: Path, precision: Precision, out: Path) -> tuple[Path, EngineReport]:
        """See `brixel_edge.export.workshop.EngineMaker.make`."""
        from brixel_edge.export.engine.to_engine import engine_from_onnx

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

    def features(self, engine: Path, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.floating]] | None:
        """See `brixel_edge.export.workshop.EngineMaker.features`."""
        from brixel_edge.runtimes.backends.trt import open_trt

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
