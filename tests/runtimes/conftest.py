"""Fixtures of the device's tests."""

from __future__ import annotations

from functools import partial

import pytest


@pytest.fixture
def plan_in(tmp_path, acted):
    """Build a plan in the acted world: plan_in(precision, graph) gives its path, the report beside it."""
    from acted_plan import build_plan

    return partial(build_plan, tmp_path)
