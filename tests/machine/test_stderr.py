"""Lines that C libraries write to stderr by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from brixel_edge.machine.stderr import caught_complaints


def test_complaints_are_caught_and_the_rest_is_passed_on(capfd):
    with caught_complaints() as complaints:
        os.write(2, b"libpng error: Read Error\nbrixel-run: warning: a JPEG of another thread\n")
        os.write(2, b"Corrupt JPEG data: 7 extraneous bytes before marker 0xd9\nno end")
        assert complaints == []
    assert complaints == ["libpng error: Read Error", "Corrupt JPEG data: 7 extraneous bytes before marker 0xd9"]
    assert capfd.readouterr().err == "brixel-run: warning: a JPEG of another thread\nno end"
    os.write(2, b"libpng error: after it\n")
    assert capfd.readouterr().err == "libpng error: after it\n"


def test_an_error_inside_leaves_stderr_as_it_was(capfd):
    try:
        with caught_complaints() as complaints:
            os.write(2, b"libpng warning: x\n")
            raise ValueError
    except ValueError:
        pass
    assert complaints == ["libpng warning: x"]
    os.write(2, b"seen\n")
    assert capfd.readouterr().err == "seen\n"


def test_much_of_it_holds_nobody():
    with caught_complaints() as complaints:
        for _ in range(3000):
            try:
                os.write(2, b"libpng warning: " + b"x" * 80 + b"\n")
            except BlockingIOError:
                break
    assert len(complaints) > 100


def test_threads_take_turns(capfd):
    found = {}

    def read(number):
        with caught_complaints() as complaints:
            os.write(2, f"libpng error: {number}\n".encode())
        found[number] = complaints

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [f"libpng error: {number}"] for number in range(8)}
    assert capfd.readouterr().err == ""


def test_no_descriptor_is_left_open_and_a_closed_stderr_is_no_error():
    code = (
        "import os\nfrom brixel_edge.machine.stderr import caught_complaints\n"
        "count = lambda: len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else 0\n"
        "before = count()\n"
        "for _ in range(50):\n with caught_complaints(): pass\n"
        "assert count() == before\nos.close(2)\n"
        "with caught_complaints() as complaints: pass\nassert complaints == []\nprint('done')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr
