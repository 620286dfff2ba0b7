"""What the doctor finds: one thing, whether it is well, and what to type where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "note", "no"]
_MARKS: dict[State, str] = {"ok": "ok", "note": "note", "no": "no"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing.

    Attributes:
        topic: what it is about, the same for findings that belong together.
        state: `ok`; `note`, it works and something should be known; `no`, it does not work or is not there.
        text: what was found.
        remedy: what to type, or to do; None where there is nothing to do, which is never so of a `no`.
        facts: the same for machines, plain JSON values.
    """

    topic: str
    state: State
    text: str
    remedy: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.state == "no" and not self.remedy:
            raise ValueError(f"{self.topic} does not work ({self.text}), and nothing says what to do")


def table(findings: Sequence[Finding]) -> str:
    """For people: a line each, and under it what to type."""
    width = max(len(finding.topic) for finding in findings)
    lines, before = [], ""
    for finding in findings:
        topic = "" if finding.topic == before else finding.topic
        lines.append(f"{topic:<{width}}  {_MARKS[finding.state]:<4}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<{width}}        -> {finding.remedy}")
        before = finding.topic
    return "\n".join(lines)
