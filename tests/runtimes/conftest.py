"""Fixtures of the device's tests."""

from __future__ import annotations

from functools import partial

import pytest
from preview_pages import REPORT

from brixel_edge.runtimes.preview.address import PreviewAddress
from brixel_edge.runtimes.preview.server import Preview


@pytest.fixture
def plan_in(tmp_path, acted):
    """Build a plan in the acted world: plan_in(precision, graph) gives its path, the report beside it."""
    from acted_plan import build_plan

    return partial(build_plan, tmp_path)


@pytest.fixture
def serve():
    """serve(token, report) -> a page, and what was asked of the run."""
    opened = []

    def start(token=None, **changes):
        asked = []
        preview = Preview(PreviewAddress(port=0, token=token), asked.append, lambda: {**REPORT, **changes})
        preview.serve()
        opened.append(preview)
        return preview, asked

    yield start
    for preview in opened:
        preview.close()
