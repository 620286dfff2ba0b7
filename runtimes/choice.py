"""Which engine of a model directory runs: facts in, the engines in the order in which they are tried out.

1. What exports were asked for (the receipt's `requested` and `also_requested`; where a lowering failed, the precision
   that was made): TensorRT plans first, which open only where they are at home, then in the order of asking.
2. TensorRT plans of the directory: only those of this device and release open.
3. Graphs that this very processor has measured and proven at the export, the fastest first, float or INT8.
4. The others: fp32, INT8, fp16, bf16.

Within a step the faster by those measurements comes first, then the order of precisions above, then the preferred
backend (OpenVINO on x86, ONNX Runtime elsewhere). A backend or precision that the user names leaves only its engines.
Each that is tried must run here, and be proven here or pass its gate; the first that does is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from brixel_edge.model.engine_choice import EngineChoice, engine_choice
from brixel_edge.model.receipt import Receipt
from brixel_edge.model.receipt_sections import Requested
from brixel_edge.runtimes.engines import Engine

_PRECISIONS = ("fp32", "int8", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the order depends on.

    Attributes:
        requested: what exports were asked for, in order.
        engines: every file of the directory with every backend that it is for, installed or not.
        installed: backends.
        preferred: CPU backends, the better first.
        p50_ms: medians that were measured on this processor, by the engine's name [ms].
        proven: files that the export has proven.
        backend: that the user names; None for any.
        precision: that the user names; None for any.
    """

    requested: Sequence[EngineChoice]
    engines: Sequence[Engine]
    installed: frozenset[str]
    preferred: Sequence[str]
    p50_ms: dict[str, float] = field(default_factory=dict)
    proven: frozenset[str] = frozenset()
    backend: str | None = None
    precision: str | None = None


def engines_in_order(facts: Facts) -> list[Engine]:
    """Those that may run, in the order in which they are tried; empty where none is left."""
    fitting = [
        engine
        for engine in facts.engines
        if engine.backend in facts.installed
        and facts.backend in (None, engine.backend)
        and facts.precision in (None, engine.precision)
    ]
    return sorted(fitting, key=lambda engine: _rank(engine, facts))


def missing_request(facts: Facts) -> str | None:
    """Why nothing that exports were asked for can even be tried; None where it can, or the user named another."""
    if facts.backend is not None or facts.precision is not None:
        return None
    wanted = [engine for engine in facts.engines if engine.choice in facts.requested]
    if any(engine.backend in facts.installed for engine in wanted):
        return None
    if not wanted:
        return "the directory has none"
    return f"{' or '.join(sorted({engine.backend for engine in wanted}))} is not installed here"


def requested_choices(receipt: Receipt) -> tuple[EngineChoice, ...]:
    """What exports were asked for, in order."""
    return tuple(requested_choice(entry) for entry in (receipt.requested, *(receipt.also_requested or ())))


def requested_choice(requested: Requested) -> EngineChoice:
    """What an export came to: what it was asked for, in the precision that passed."""
    asked = engine_choice(requested.engine)
    is_lowered = asked.precision != "int8" and requested.made.precision != requested.precision
    return EngineChoice(kind=asked.kind, precision=requested.made.precision) if is_lowered else asked


def measured_here(receipt: Receipt, processor: str | None) -> dict[str, float]:
    """Medians of the receipt by the engine's name [ms]; empty where another processor, or an unknown one, measured."""
    bench = receipt.measured.bench
    if bench is None or processor is None or bench.machine.get("cpu") != processor:
        return {}
    return {row.name: row.p50_ms for row in bench.rows if row.p50_ms is not None}


def _rank(engine: Engine, facts: Facts) -> tuple[float, ...]:
    """The step, the place among what was asked for, and what decides within it."""
    p50_ms = facts.p50_ms.get(engine.name, math.inf)
    is_known = p50_ms < math.inf and engine.path.name in facts.proven
    choice, place = engine.choice, 0
    if choice is not None and choice in facts.requested:
        step, place = 1, 0 if engine.backend == "trt" else 1 + list(facts.requested).index(choice)
    else:
        step = 2 if engine.backend == "trt" else 3 if is_known else 4
    precision = _PRECISIONS.index(engine.precision) if engine.precision in _PRECISIONS else len(_PRECISIONS)
    if engine.backend == "trt":  # as `plan_of_graph`: fp16 is what such devices are for
        precision = ("fp16", "bf16", "fp32", "int8").index(engine.precision)
    backend = facts.preferred.index(engine.backend) if engine.backend in facts.preferred else len(facts.preferred)
    return step, place, p50_ms if is_known else math.inf, precision, backend
