"""The ordered plans of an export, and the loop that takes the first one that passes.

A plan is one way to compute the same features. They are tried in a fixed order, from the fastest on: first every
lowering of deformable sampling, because a wrong GridSample is the commonest fault, then more fp32 islands, then the
wider half precision, at last fp32:

    asked for   tried
    fp32        fp32
    fp16        fp16, fp16 with wide islands, bf16, fp32
    bf16        bf16, bf16 with wide islands, fp32

each with every sampler of the list. What was tried, and what came of it, goes into the receipt. Knows nothing of how a
plan is carried out.
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
    """A plan whose artefact missed its gate; carries what was measured."""

    def __init__(self, message: str, figures: dict[str, Parity]) -> None:
        super().__init__(message)
        self.figures = figures


class NoPlanBuiltError(BuildError):
    """No plan could even be built; carries the attempts."""

    def __init__(self, message: str, attempts: list[Attempt]) -> None:
        super().__init__(message)
        self.attempts = attempts


class NoPlanPassedError(ParityError):
    """Every plan failed, at least one of them at its gate; carries the attempts."""

    def __init__(self, message: str, attempts: list[Attempt]) -> None:
        super().__init__(message)
        self.attempts = attempts


def plans_for(
    precision: Precision, samplers: Sequence[SamplerKind], *, bf16_samplers: Sequence[SamplerKind]
) -> list[Lowering]:
    """All plans for a wanted precision, in the order in which they are tried.

    Args:
        precision: fp32, fp16 or bf16.
        samplers: lowerings in the order in which they are tried.
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
    plans: Sequence[Lowering],
    carry_out: Callable[[Lowering], tuple[T, dict[str, Parity]]],
    *,
    on_failure: Callable[[Lowering, str], None] = lambda plan, error: None,
) -> tuple[T, list[Attempt]]:
    """Carry plans out in order until one passes.

    Args:
        plans: to try.
        carry_out: builds and proves one; gives its result and its parity figures.
        on_failure: hears of every plan that was given up.

    Returns:
        the result, and all attempts, the last of which passed.

    Raises:
        NoPlanPassedError: a gate was missed, and no plan passed.
        NoPlanBuiltError: nothing could be built.
    """
    attempts: list[Attempt] = []
    for plan in plans:
        try:
            result, figures = carry_out(plan)
        except (BuildError, ParityError) as error:
            measured = error.figures if isinstance(error, GateMissedError) else {}
            attempts.append(_attempt(plan, str(error), measured))
            on_failure(plan, str(error))
        else:
            attempts.append(_attempt(plan, None, figures))
            return result, attempts
    last = attempts[-1].error
    tried = f"none of {len(attempts)} plans passed; the last, {attempts[-1]}: {last}"
    if any(attempt.parity for attempt in attempts):
        raise NoPlanPassedError(tried if len(attempts) > 1 else str(last), attempts)
    raise NoPlanBuiltError(tried if len(attempts) > 1 else str(last), attempts)


def _attempt(plan: Lowering, error: str | None, parity: dict[str, Parity]) -> Attempt:
    return Attempt(
        precision=plan.precision,
        sampler=plan.sampler,
        islands=plan.islands,
        passed=error is None,
        error=error,
        parity=parity,
    )
