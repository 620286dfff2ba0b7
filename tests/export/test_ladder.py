"""The order of lowerings, and the loop over them."""

import pytest

from brixel_edge.errors import BuildError, MemoryBudgetError, ParityError, SpecError
from brixel_edge.export.ladder import (
    GateMissedError,
    first_that_passes,
    lowerings_for,
)
from brixel_edge.model.json_form import fields_to_json
from brixel_edge.model.receipt_sections import Lowering, Parity

FIGURES = Parity(
    backend="b",
    cosine_mean=0.3,
    cosine_p01=0.1,
    norm_error=0.0,
    centred_mean=0.2,
    frobenius=0.5,
    max_abs=1.0,
    finite=True,
    images=1,
    photographs=("a",),
    gate="fp16",
    also=(),
)
NATIVE_FIRST, GATHER_FIRST = ("gridsample", "gather"), ("gather", "gridsample")


def test_lowerings_for_fp16_are_in_the_documented_order():
    plans = lowerings_for("fp16", NATIVE_FIRST, bf16_samplers=GATHER_FIRST)
    assert [str(plan) for plan in plans] == [
        "fp16, gridsample",
        "fp16, gather",
        "fp16 with wide islands, gridsample",
        "fp16 with wide islands, gather",
        "bf16, gather",
        "bf16, gridsample",
        "fp32, gridsample",
        "fp32, gather",
    ]


@pytest.mark.parametrize(
    ("precision", "steps"), [("fp32", ["fp32"]), ("bf16", ["bf16", "bf16 with wide islands", "fp32"])]
)
def test_plans_of_the_other_precisions(precision, steps):
    plans = lowerings_for(precision, ("gather",), bf16_samplers=("gather",))
    assert [str(plan) for plan in plans] == [f"{step}, gather" for step in steps]


def test_a_precision_without_plans_is_refused():
    with pytest.raises(SpecError, match="no plans for 'int8'; there are some for fp32, fp16, bf16"):
        lowerings_for("int8", NATIVE_FIRST, bf16_samplers=GATHER_FIRST)


LOWERINGS = lowerings_for("fp16", NATIVE_FIRST, bf16_samplers=GATHER_FIRST)


def outcomes(*errors: Exception | None):
    """Carries plans out with these outcomes, in order; afterwards everything fails."""
    waiting = list(errors)

    def carry_out(lowering: Lowering):
        error = waiting.pop(0) if waiting else BuildError("no more")
        if error is not None:
            raise error
        return f"made {lowering}", {"g": FIGURES}

    return carry_out


def test_the_first_that_passes_ends_the_loop_and_every_attempt_is_kept():
    missed = GateMissedError("differs", {"g": FIGURES})
    heard = []
    attempts = []
    result = first_that_passes(
        LOWERINGS,
        outcomes(BuildError("refused"), missed, None),
        attempts,
        on_failure=lambda lowering, error: heard.append((str(lowering), error)),
    )
    assert result == "made fp16 with wide islands, gridsample"
    measured = {"g": fields_to_json(FIGURES)}
    narrow = {"precision": "fp16", "islands": "measured"}
    given_up = {"passed": False, "error": "differs", "parity": measured}
    passed = {"passed": True, "error": None, "parity": measured}
    assert [fields_to_json(attempt) for attempt in attempts] == [
        {**narrow, "sampler": "gridsample", "passed": False, "error": "refused", "parity": {}},
        {**narrow, "sampler": "gather", **given_up},
        {"precision": "fp16", "islands": "wide", "sampler": "gridsample", **passed},
    ]
    assert heard == [("fp16, gridsample", "refused"), ("fp16, gather", "differs")]


def test_none_passed_is_exit_5_with_all_attempts():
    missed = GateMissedError("differs", {"g": FIGURES})
    attempts = []
    with pytest.raises(ParityError, match=r"none of 8 plans passed; the last, fp32, gather: no more") as caught:
        first_that_passes(LOWERINGS, outcomes(missed), attempts)
    assert caught.value.exit_code == 5
    assert len(attempts) == 8


def test_none_built_is_exit_4():
    with pytest.raises(BuildError, match="none of 8 plans") as caught:
        first_that_passes(LOWERINGS, outcomes(), [])
    assert caught.value.exit_code == 4
    assert not isinstance(caught.value, ParityError)


def test_a_single_plan_fails_with_its_own_words():
    with pytest.raises(BuildError, match=r"^refused$"):
        first_that_passes(LOWERINGS[:1], outcomes(BuildError("refused")), [])


def test_what_another_plan_cannot_help_ends_the_loop_at_once():
    with pytest.raises(MemoryBudgetError, match="killed"):
        first_that_passes(LOWERINGS, outcomes(MemoryBudgetError("killed"), None), [])
