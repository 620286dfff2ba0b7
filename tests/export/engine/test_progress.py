"""Nested phases of a build as one number."""

from __future__ import annotations

import pytest

from brixel_edge.export.engine.progress import PhaseTree


def test_nested_phases_add_up():
    tree = PhaseTree()

    def after(*event):
        kind, name, *rest = event
        extra = (
            dict(zip(("parent", "steps"), rest, strict=True)) if kind == "phase" else {"step": rest[0]} if rest else {}
        )
        tree.on_event({"event": kind, "name": name, **extra})
        return tree.fraction

    assert after("phase", "engine", None, 4) == 0
    assert after("phase", "timing", "engine", 2) == 0
    assert after("step", "timing", 0) == pytest.approx(1 / 8)
    assert after("step", "timing", 1) == pytest.approx(1 / 4)
    assert after("finish", "timing") == pytest.approx(1 / 4)  # its parent's step is not told yet
    assert after("step", "engine", 0) == pytest.approx(1 / 4)
    assert after("step", "engine", 2) == pytest.approx(3 / 4)
    assert tree.innermost == "engine"
    assert after("finish", "engine") == 1
