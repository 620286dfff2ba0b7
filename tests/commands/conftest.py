"""Fixtures of the commands' tests."""

from __future__ import annotations

import cv2
import pytest


@pytest.fixture
def folder(tmp_path, photographs):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(5):
        cv2.imwrite(str(pictures / f"{number}.jpg"), photographs[1])
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return str(pictures)


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
