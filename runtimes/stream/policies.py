"""Which of a source's frames are used: the newest, every one, or the newest that is young enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

from brixel_edge.errors import SpecError

POLICIES = "latest, every or max-age=MS"
# Of live sources, where nothing else is asked for.
_DEFAULT_MAX_AGE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How frames that wait are chosen.

    Attributes:
        keeps_all: every frame is used, and the source's reader waits for room; else the newest replaces the one before.
        max_age_s: frames that are older when their turn comes are dropped [s]; None for no bound.
    """

    keeps_all: bool
    max_age_s: float | None = None

    def __str__(self) -> str:
        if self.keeps_all:
            return "every"
        return "latest" if self.max_age_s is None else f"max-age={1e3 * self.max_age_s:.0f}"


def parse_policy(text: str) -> Policy:
    """What `latest`, `every` or `max-age=MS` says.

    Raises:
        SpecError: none of these.
    """
    if text in ("latest", "every"):
        return Policy(keeps_all=text == "every")
    name, _, value = text.partition("=")
    try:
        max_age_ms = float(value) if name == "max-age" else math.nan
    except ValueError:
        max_age_ms = math.nan
    if not 0 < max_age_ms < math.inf:
        raise SpecError(f"policy {text!r} is not {POLICIES}; for instance max-age=200")
    return Policy(keeps_all=False, max_age_s=max_age_ms / 1e3)


def policy_of_source(is_live: bool) -> Policy:
    """What a source gets where nothing is asked for: all of a file, a camera's newest of the last second."""
    return Policy(keeps_all=False, max_age_s=_DEFAULT_MAX_AGE_S) if is_live else Policy(keeps_all=True)
