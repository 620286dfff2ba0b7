"""Amounts of memory as people write them, and the process's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from brixel_edge.errors import SpecError
from brixel_edge.machine import memory
from brixel_edge.machine.memory import MIB, format_bytes, parse_bytes, peak_rss_bytes, rss_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30), ("900MiB", 900 << 20), ("900M", 900 << 20), ("1.5GB", 1_500_000_000), ("4g", 4 << 30),
        ("512 MiB", 512 << 20), ("1048576", 1 << 20), ("64k", 64 << 10), ("100b", 100), ("1kb", 1000),
        ("1TiB", 1 << 40), ("0.5MiB", 1 << 19), ("2GB", 2 * 10**9), ("3tb", 3 * 10**12),
    ],
)  # fmt: skip
def test_amounts(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "two gigabytes", "-1G", "1.5.2G", "3PiB", "5ib"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(SpecError, match="for instance 2GiB"):
        parse_bytes(text)


def test_tables_are_in_mib():
    assert format_bytes(300 * MIB) == "300 MiB"


def test_the_peak_remembers_what_was_given_back():
    before = rss_bytes()
    block = np.ones(80 * MIB, np.uint8)
    held = rss_bytes()
    del block
    assert held - before > 70 * MIB
    assert rss_bytes() < held - 70 * MIB
    assert peak_rss_bytes() > held - 2 * MIB  # the kernel counts in batches


def test_the_peak_is_the_process_s_own_not_its_parent_s():
    """getrusage in a child starts from the parent's memory on Linux; ours must not."""
    block = np.ones(300 * MIB, np.uint8)
    code = "from brixel_edge.machine.memory import peak_rss_bytes; print(peak_rss_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert block[0] == 1
    assert int(child.stdout) < 150 * MIB


def test_other_systems_are_asked_by_getrusage(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "missing")
    assert 10 * MIB < peak_rss_bytes() < 100_000 * MIB
    assert rss_bytes() == peak_rss_bytes()
