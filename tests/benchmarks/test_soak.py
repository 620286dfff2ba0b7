"""What soak calls a leak: what stays, not what is open for a moment while it is looked at."""

from __future__ import annotations

import subprocess
import sys

import pytest
import soak
from soak import Sample, problems, verdict

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
OPEN = ("/dev/null", "out.mp4", "pipe:[1]")


def rows(memory=lambda second: 200.0, threads=lambda second: 9, descriptors=lambda second: OPEN):
    return [
        Sample(time_s=second, rss_mb=memory(second), threads=threads(second), descriptors=descriptors(second))
        for second in range(101)
    ]


def test_a_flat_run_has_no_problem():
    figures = verdict(rows())
    assert (figures["samples"], figures["descriptors"], figures["threads"]) == (71, [3, 3], [9, 9])
    assert problems(figures) == []


def test_what_is_open_for_a_moment_or_until_the_warm_up_is_no_leak():
    figures = verdict(rows(descriptors=lambda second: (*OPEN, "/proc/7/status") if second % 7 == 0 else OPEN,
                           threads=lambda second: 12 if second < 15 or second == 90 else 9))  # fmt: skip
    assert (figures["descriptors"], figures["most_descriptors"], figures["most_threads"]) == ([3, 3], 4, 12)
    assert figures["sometimes_open"] == ["/proc/7/status"]
    assert problems(figures) == []


@pytest.mark.parametrize(
    ("leak", "message"),
    [
        ({"memory": lambda second: 200 + 1.2 * second / 60}, "memory grows by 1.20 MB a minute"),
        ({"threads": lambda second: 9 + (second > 50)}, "threads went from 9 to 10"),
        ({"descriptors": lambda second: OPEN + ("a",) * (second > 50)}, "descriptors went from 3 to 4"),
        ({"descriptors": lambda second: (*OPEN[1:], "a") if second > 50 else OPEN}, "stays open: a"),
    ],
)
def test_a_leak_is_one_however_late(leak, message):
    assert message in problems(verdict(rows(**leak)))


def test_counting_begins_when_pictures_are_saved():
    part = "out/.soak.7.part.mp4"
    kept = soak.recording(rows(descriptors=lambda second: (part,) if second >= 40 else ()))
    assert [row.time_s for row in kept] == list(range(61))
    with pytest.raises(SystemExit, match="nothing was saved"):
        soak.recording(rows())


LEAK = """
import sys, time
kept = []
for number in range(40):
    if "leaks" in sys.argv: kept.append(open(__file__ if "__file__" in globals() else sys.executable))
    time.sleep(0.05)
"""


@pytest.mark.parametrize("leaks", [True, False])
def test_a_process_that_leaks_is_told_from_one_that_does_not(leaks):
    process = subprocess.Popen([sys.executable, "-c", LEAK, *["leaks"] * leaks], text=True)
    found = problems(verdict(soak.watch(process, 1.5, every_s=0.05), warm_up_s=0.0))
    assert any("stays open" in problem and "python" in problem for problem in found) is leaks, found


def test_a_run_that_is_too_short_says_so():
    with pytest.raises(SystemExit, match="6 samples after a warm-up of 30 s are too few; --seconds 90"):
        verdict([row for row in rows() if row.time_s <= 35])
