"""The states of a source, told by hand."""

from __future__ import annotations

from brixel_edge.runtimes.stream.state import SourceState


def told(*events, **settings):
    """The states after each event: (name, time, ...)."""
    machine = SourceState(0.0, **settings)
    states = []
    for name, *given in events:
        keywords = {"is_repeated": given.pop()} if name == "frame" and len(given) == 3 else {}
        getattr(machine, name)(*given, **keywords)
        states.append(machine.state.value)
    return machine, states


def test_a_good_stream():
    machine, states = told(("tick", 0.5), ("frame", 1.0, 0.1), ("tick", 1.9), ("frame", 1.95, 0.1), ("end", 2.0))
    assert states == ["opening", "running", "running", "running", "ended"]
    assert machine.since_s == 2.0


def test_silence_is_a_stall_and_ends_with_a_frame():
    machine, states = told(("frame", 1.0, 0.1), ("tick", 2.0), ("tick", 2.01), ("tick", 5.0), ("frame", 9.0, 0.1))
    assert states == ["running", "running", "stalled", "stalled", "running"]
    assert {state.value: count for state, count in machine.entered.items()} == {
        "opening": 1, "running": 2, "stalled": 1,
    }  # fmt: skip


def test_a_source_that_may_wait_does_not_stall():
    _, states = told(("frame", 1.0, 0.1), ("tick", 100.0), stall_s=None)
    assert states[-1] == "running"


def test_late_frames_degrade():
    machine, states = told(("frame", 1.0, 0.6), ("frame", 1.1, 0.1), late_s=0.5)
    assert states == ["degraded", "running"]
    assert machine.reason == ""


def test_a_frozen_camera_degrades_after_a_second():
    _, states = told(
        ("frame", 1.0, 0.1), ("frame", 1.1, 0.1, True), ("frame", 2.0, 0.1, True), ("frame", 2.2, 0.1, True),
        ("frame", 2.3, 0.1, False), ("frame", 2.4, 0.1, True),
    )  # fmt: skip
    assert states == ["running", "running", "running", "degraded", "running", "running"]


def test_a_lost_source_reconnects_until_it_is_back_or_fails():
    _, states = told(
        ("frame", 1.0, 0.1), ("tick", 1.1, "timeout"), ("tick", 9.0, "refused"), ("tick", 9.1), ("frame", 9.2, 0.1)
    )
    assert states == ["running", "reconnecting", "reconnecting", "reconnecting", "running"]
    machine, states = told(("frame", 1.0, 0.1), ("tick", 1.1, "timeout"), ("fail", 31.0, "timeout"), ("end", 31.1))
    assert states[-1] == "failed"
    assert machine.reason == "timeout"


def test_what_is_over_stays_over():
    _, states = told(("end", 1.0), ("frame", 2.0, 0.1), ("tick", 3.0, "timeout"), ("fail", 4.0, "x"))
    assert states == ["ended"] * 4
