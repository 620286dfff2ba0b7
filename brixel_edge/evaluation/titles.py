"""Scores as people read them: shares in percent, all else as it is."""

from __future__ import annotations

SHARES = (
    "miou", "pixel_accuracy", "delta1", "aligned_delta1", "j_and_f", "j", "f", "under_11.25", "under_22.5", "under_30",
)  # fmt: skip


def factor_of(name: str) -> int:
    """What a score is multiplied by to be shown."""
    return 100 if name in SHARES else 1


def title_of(name: str) -> str:
    """Of a column or an axis."""
    return name.replace("_", " ") + (" %" if name in SHARES else "")
