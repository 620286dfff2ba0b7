"""TensorRT engines of an export: built, and proven where this machine can run them. No torch, no onnx.

On the build machine an engine is compared with PyTorch in this process, on a board with the proof that travels, in a
process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BackendMissing, BuildError
from brixel_edge.export.engine.settings import EngineSettings, TypingChoice
from brixel_edge.export.engine.to_engine import engine_from_onnx
from brixel_edge.export.facts import FileFacts, Stopwatch
from brixel_edge.export.gate import passed
from brixel_edge.export.ladder import GateMissedError
from brixel_edge.machine.files import write_atomically
from brixel_edge.machine.tensorrt import EngineKind
from brixel_edge.model.engine_file import BuildAttempt, EngineReport
from brixel_edge.model.receipt_sections import EngineCost, EngineRecord, Parity
from brixel_edge.model.spec import ModelSpec, Precision
from brixel_edge.proof.parity import ParityReport
from brixel_edge.proof.references import Outputs
from brixel_edge.runtimes.backends.trt import open_trt

CompareEngine = Callable[[Path], ParityReport | None]


class EngineBuilder(Protocol):
    """Compiles a proven graph for a device, and runs the result if this machine can."""

    def build(
        self, graph: Path, precision: Precision, out: Path, typing: TypingChoice = "auto"
    ) -> tuple[Path, EngineReport]:
        """The engine's file in `out` and its report; `typing` narrows what the builder tries.

        Raises:
            BuildError: the compiler refused.
        """
        ...

    def outputs(self, engine: Path, images: Sequence[NDArray[np.uint8]]) -> list[Outputs] | None:
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

    def build(
        self, graph: Path, precision: Precision, out: Path, typing: TypingChoice = "auto"
    ) -> tuple[Path, EngineReport]:
        """See `EngineBuilder.build`."""
        if self.settings.timing_cache_dir is None:
            for name, content in self.caches.items():
                write_atomically(out / name, content)
        settings = self.settings if typing == "auto" else replace(self.settings, typing=typing)
        try:
            built = engine_from_onnx(graph, self.spec, precision=precision, out=out, kind=self.kind, settings=settings)
        finally:
            self._learn(out)
        return built.plan, built.report

    def _learn(self, folder: Path) -> None:
        self.caches.update({path.name: path.read_bytes() for path in folder.glob("timing.*.cache")})

    def outputs(self, engine: Path, images: Sequence[NDArray[np.uint8]]) -> list[Outputs] | None:
        """See `EngineBuilder.outputs`."""
        try:
            runtime = open_trt(engine, self.spec)
        except BackendMissing:
            # Only TensorRT-RTX gets so far without a GPU: it builds ahead of time.
            if self.kind == "trt-rtx":
                return None
            raise
        try:
            return [runtime.infer(image) for image in images]
        finally:
            runtime.close()


@dataclass(frozen=True, kw_only=True)
class EngineMaker:
    """Builds the engine of a graph, and lets it pass its gate.

    Attributes:
        builder: compiles.
        compare: an engine with PyTorch; None where this machine cannot run it.
        photographs: that it is compared on.
        watch: is told what it takes.
        say: called with one line per step.
    """

    builder: EngineBuilder
    compare: CompareEngine
    photographs: Sequence[str]
    watch: Stopwatch
    say: Callable[[str], None]

    def proven_engine(self, graph: Path, precision: Precision) -> tuple[tuple[Path, ...], dict[str, FileFacts]]:
        """Build the engine of a graph beside it, and prove it if it runs here.

        Where a half-precision engine whose types bind misses its gate, one whose types are hints is tried, if the
        release has those: what is wrong in one is often right in the other.

        Returns:
            the files that this gave, and what the receipt says of the engine.

        Raises:
            BuildError: it could not be built.
            GateMissedError: it does not compute what PyTorch does.
        """
        before = set(graph.parent.iterdir())
        try:
            engine, report, parity = self._engine(graph, precision, "auto")
        except _WrongEngineError as wrong:
            if (
                precision == "fp32"
                or wrong.report.typing != "strong"
                or "weak" not in (wrong.report.other_typings or ())
            ):
                raise wrong.missed from None
            self.say(f"{wrong.missed}; trying weak typing")
            try:
                engine, report, parity = self._engine(graph, precision, "weak")
            except (BuildError, _WrongEngineError):
                raise wrong.missed from None
            first = BuildAttempt(typing="strong", error=str(wrong.missed))
            report = replace(report, attempts=(first, *report.attempts))
        facts = FileFacts(
            parity=parity,
            engine=EngineRecord(
                backend=_backend(report), graph=graph.name, report=report.without_measured(), proven=parity is not None
            ),
            cost=EngineCost(build_s=report.build_s, peak_host_bytes=report.peak_host_bytes),
        )
        return tuple(sorted(set(graph.parent.iterdir()) - before)), {engine.name: facts}

    def _engine(
        self, graph: Path, precision: Precision, typing: TypingChoice
    ) -> tuple[Path, EngineReport, Parity | None]:
        self.say(f"building the engine of {graph.name}")
        with self.watch.timed("engine"):
            engine, report = self.builder.build(graph, precision, graph.parent, typing)
        with self.watch.timed("parity"):
            result = self.compare(engine)
        if result is None:
            return engine, report, None
        try:
            return engine, report, passed(engine.name, precision, {_backend(report): result}, self.photographs)
        except GateMissedError as error:
            raise _WrongEngineError(report, error) from error


class _WrongEngineError(Exception):
    """An engine that was built and missed its gate."""

    def __init__(self, report: EngineReport, missed: GateMissedError) -> None:
        super().__init__(str(missed))
        self.report, self.missed = report, missed


def _backend(report: EngineReport) -> str:
    return f"{report.identity.kind} {report.identity.version}"
