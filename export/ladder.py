"""The ordered lowerings of an export, and the loop that takes the first one that passes.

A lowering is one way to compute the same features. They are tried in a fixed order, from the fastest on: first every
lowering of deformable sampling, because a wrong GridSample is the commonest fault, then more fp32 islands, then the
wider half precision, at last fp32:

    asked for   tried
    fp32        fp32
    fp16        fp16, fp16 with wide islands, bf16, fp32
    bf16        bf16, bf16 with wide islands, fp32

each with every sampler of the list. What was tried, and what came of it, goes into the receipt. Knows nothing of how a
lowering is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from brixel_edge.errors import BuildError, ParityError, SpecError
from brixel_edge.model.receipt_sections import Attempt, IslandLevel, Lowering, Parity
from brixel_edge.model.spec import Precision, SamplerKind

T = TypeVar("T")

LADDER: dict[Precision, tuple[tuple[Precision, IslandLevel | None], ...]] = {
    "fp32": (("fp32", None),),
    "fp16": (("fp16", "measured"), ("fp16", "wide"), ("bf16", "measured"), ("fp32", None)),
    "bf16": (("bf16", "measured"), ("bf16", "wide"), ("fp32", None)),
}


class GateMissedError(ParityError):
    """A lowering whose artefact missed its gate; carries what was measured."""

    def __init__(self, message: str, figures: dict[str, Parity]) -> None:
        super().__init__(message)
        self.figures = figures


def lowerings_for(
    precision: Precision, samplers: Sequence[SamplerKind], *, bf16_samplers: Sequence[SamplerKind]
) -> list[Lowering]:
    """All lowerings for a wanted precision, in the order in which they are tried.

    Args:
        precision: fp32, fp16 or bf16.
        samplers: in the order in which they are tried.
        bf16_samplers: the same for bf16, whose graphs are of an opset where GridSample has another form.

    Raises:
        SpecError: another precision.
    """
    if precision not in LADDER:
        raise SpecError(f"no plans for {precision!r}; there are some for {', '.join(LADDER)}")
    return [
        Lowering(precision=step, sampler=sampler, islands=islands)
        for step, islands in LADDER[precision]
        for sampler in (bf16_samplers if step == "bf16" else samplers)
    ]


def first_that_passes(
    lowerings: Sequence[Lowering],
    carry_out: Callable[[Lowering], tuple[T, dict[str, Parity]]],
    attempts: list[Attempt],
    *,
    on_failure: Callable[[Lowering, str], None] = lambda lowering, error: None,
) -> T:
    """Carry lowerings out in order until one passes.

    Args:
        lowerings: to try.
        carry_out: builds and proves one; gives its result and its parity figures.
        attempts: what came of each is appended here, whether or not one passes.
        on_failure: called with every lowering that was given up, and why.

    Returns:
        the result of the one that passed, the last of the attempts.

    Raises:
        ParityError: a gate was missed, and no lowering passed.
        BuildError: nothing could be built.
    """
    for lowering in lowerings:
        try:
            result, figures = carry_out(lowering)
        except (BuildError, ParityError) as error:
            measured = error.figures if isinstance(error, GateMissedError) else {}
            attempts.append(_attempt(lowering, str(error), measured))
            on_failure(lowering, str(error))
        else:
            attempts.append(_attempt(lowering, None, figures))
            return result
    last, count = attempts[-1], len(attempts)
    told = f"none of {count} plans passed; the last, {last}: {last.error}" if count > 1 else str(last.error)
    raise ParityError(told) if any(attempt.parity for attempt in attempts) else BuildError(told)


def _attempt(lowering: Lowering, error: str | None, parity: dict[str, Parity]) -> Attempt:
    return Attempt(
        precision=lowering.precision,
        sampler=lowering.sampler,
        islands=lowering.islands,
        passed=error is None,
        error=error,
        parity=parity,
    )
