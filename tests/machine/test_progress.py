"""Progress on stderr: what a pipe, a file and a terminal get."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios

from brixel_edge.machine import progress as progressing
from brixel_edge.machine.progress import progress


class Stopwatch:
    """A clock that goes a second further at every look."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now_s = step_s, 0.0

    def monotonic(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_items_pass_through_in_order():
    assert list(progress(iter("abc"), "letters")) == ["a", "b", "c"]


def test_a_pipe_gets_one_line_a_stage_and_no_carriage_return(monkeypatch, capsys):
    monkeypatch.setattr(progressing, "time", Stopwatch(3.0))
    assert list(progress(range(4), "counting")) == [0, 1, 2, 3]
    assert capsys.readouterr().err == "counting: 4 in 3.0 s\n"


def test_what_is_soon_over_is_not_mentioned(monkeypatch, capsys):
    monkeypatch.setattr(progressing, "time", Stopwatch(1.0))
    assert list(progress(range(4), "counting")) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""


def on_a_terminal(items, monkeypatch, **options):
    """What a terminal gets while `items` pass; pytest's own stderr is put back by monkeypatch."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(ours, False)
    monkeypatch.setattr(progressing, "_DELAY_S", 0.0)
    with os.fdopen(theirs, "w") as stream:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", stream)
            passed = list(progress(items, "counting", **options))
        stream.flush()
        drawn = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert passed == [0, 1, 2]
    return drawn


def test_a_terminal_gets_a_bar(monkeypatch):
    drawn = on_a_terminal(range(3), monkeypatch)
    assert "\r" in drawn and "counting" in drawn and "/3" in drawn


def test_a_bar_knows_the_total_that_it_is_told(monkeypatch):
    assert "/7" in on_a_terminal(iter(range(3)), monkeypatch, total=7)


def test_a_terminal_without_tqdm_gets_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert on_a_terminal(range(3), monkeypatch).startswith("counting: 3 in ")
