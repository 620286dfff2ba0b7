"""What an export knows of the files that it makes, and how long it takes; no torch, no onnx."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brixel_edge.model.receipt_sections import Census, EngineCost, EngineRecord, Halves, Islands, Parity
from brixel_edge.model.spec import SamplerKind


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Named images, (1, H, W, 3) uint8 each at the graph's size."""

    names: Sequence[str]
    pixels: Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What the receipt says of a file, as far as it concerns that kind of file.

    Attributes:
        sampler: lowering of deformable sampling, of a graph.
        census: of a graph.
        precisions: of a graph: operator, type that it computes in, nodes.
        islands: of a half-precision graph.
        parity: None for an engine that cannot run here.
        halves: of an adapter and its backbone, beside their graph.
        engine: of an engine.
        cost: of building an engine.
    """

    sampler: SamplerKind | None = None
    census: Census | None = None
    precisions: dict[str, dict[str, int]] | None = None
    islands: Islands | None = None
    parity: Parity | None = None
    halves: Halves | None = None
    engine: EngineRecord | None = None
    cost: EngineCost | None = None


@dataclass(frozen=True, kw_only=True)
class Product:
    """Files that were made, and what is known of those that were proven."""

    files: tuple[Path, ...]
    facts: dict[str, FileFacts]

    @property
    def parity(self) -> dict[str, Parity]:
        """By file, where it was measured."""
        return {name: facts.parity for name, facts in self.facts.items() if facts.parity is not None}


@dataclass(kw_only=True)
class Stopwatch:
    """Seconds by kind of work."""

    begin_s: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Add what the block takes."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - start_s

    def rounded(self) -> dict[str, float]:
        """For the receipt, with the total since it was made."""
        spent = {kind: round(seconds, 3) for kind, seconds in sorted(self.seconds.items())}
        return {**spent, "total": round(time.perf_counter() - self.begin_s, 3)}
