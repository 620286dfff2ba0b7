"""Whether INT8 is worth it: faster than the best float engine of the same machine, or refused with both numbers.

Published INT8 on transformers is often slower than half precision, so speed is a condition and not a promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from brixel_edge.errors import SpecError

MIN_SPEEDUP = 1.1


@dataclass(frozen=True, kw_only=True)
class SpeedVerdict:
    """INT8 against the best float engine.

    Attributes:
        accepted: at least `MIN_SPEEDUP` times faster.
        speedup: latency of the best float engine over that of INT8.
        message: one line with both numbers.
    """

    accepted: bool
    speedup: float
    message: str


def speed_verdict(int8_ms: float, float_ms: Mapping[str, float], *, min_speedup: float = MIN_SPEEDUP) -> SpeedVerdict:
    """Judge INT8 by latencies measured side by side.

    Args:
        int8_ms: latency of the INT8 engine [ms].
        float_ms: latency of every float engine of this machine by name [ms].
        min_speedup: what INT8 must gain over the fastest of them.

    Raises:
        SpecError: nothing to compare with, or a latency that is none.
    """
    if not float_ms or min(int8_ms, *float_ms.values()) <= 0:
        raise SpecError(
            f"INT8 {int8_ms} ms and float engines {dict(float_ms)} cannot be compared; measure at least one, in ms"
        )
    name = min(float_ms, key=lambda engine: float_ms[engine])
    speedup = float_ms[name] / int8_ms
    accepted = speedup >= min_speedup
    figures = f"INT8 takes {int8_ms:.1f} ms, {name} takes {float_ms[name]:.1f} ms: {speedup:.2f} times faster"
    advice = "" if accepted else f", less than the {min_speedup} times that INT8 must gain; use {name}"
    return SpeedVerdict(accepted=accepted, speedup=speedup, message=figures + advice)
