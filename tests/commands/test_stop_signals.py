"""Ctrl-C and SIGTERM in every state of a run: the table, no traceback, nothing that is waited for in vain."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from brixel_edge.commands.stop_signals import StopSignals

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# Sends the signal at the moment at which a module is asked for, whatever the machine's speed.
AT_AN_IMPORT = """
import builtins, signal, sys
number, module = int(sys.argv.pop(1)), sys.argv.pop(1)
from brixel_edge.commands.start import main
real = builtins.__import__
def watched(name, *rest, **more):
    if name == module:
        builtins.__import__ = real
        signal.raise_signal(number)
    return real(name, *rest, **more)
builtins.__import__ = watched
sys.exit(main())
"""


def run(code, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["argparse", "logging", "numpy", "cv2", "numpy.typing"])
def test_a_signal_while_libraries_are_imported_ends_with_a_table(tmp_path, number, module):
    ended = run(AT_AN_IMPORT, int(number), module, "--source", "demo:", "--headless", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "processed    0 in 0.0 s" in ended.stdout


def test_that_table_is_json_where_json_was_asked_for(tmp_path):
    ended = run(AT_AN_IMPORT, int(signal.SIGINT), "cv2", "--headless", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["processed"] == 0


def test_a_broken_off_import_may_raise_what_it_likes(tmp_path):
    """NumPy's C API, for one, makes an ImportError of the interrupt."""
    other = AT_AN_IMPORT.replace(
        "        signal.raise_signal(number)",
        "        try: signal.raise_signal(number)\n        except KeyboardInterrupt: raise ImportError('numpy.core')",
    )
    ended = run(other, int(signal.SIGINT), "cv2", "--headless", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "processed    0 in 0.0 s" in ended.stdout


def test_an_import_that_fails_by_itself_is_still_an_error(tmp_path):
    broken = AT_AN_IMPORT.replace("signal.raise_signal(number)", "raise RuntimeError('broken')")
    ended = run(broken, 2, "cv2", "--headless", cwd=tmp_path)
    assert ended.returncode == 1
    assert "internal error: RuntimeError: broken" in ended.stderr


def test_the_entry_point_imports_nothing_before_its_handlers(tmp_path):
    code = (
        "import sys\nbefore = set(sys.modules)\nimport brixel_edge.commands.start\n"
        "new = {name for name in set(sys.modules) - before if not name.startswith('brixel_edge')}\n"
        "assert new <= {'signal', 'enum', '__future__', 'types', 'functools', 'collections', 'operator', 'keyword',\n"
        "    'reprlib', '_collections', '_functools', '_operator', 'itertools'} | {n for n in new if n[0] == '_'}, new"
    )
    ended = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def stalled():
    """The address of a stream that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/live"


# An hour, so that only an answer to the signal ends it before the test's limit.
LIBRARY = """
import sys
import cv2
real = cv2.VideoCapture
def patient(target, backend, parameters=()):
    return real(target, backend, [3_600_000 if value in (4000, 5000) else value for value in parameters])
cv2.VideoCapture = patient
import brixel_edge
print("go", flush=True)
try:
    for features in brixel_edge.stream(source=sys.argv[1]): pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(5)
"""


def interrupted(command, number, cwd, line="go"):
    # A suite that runs in the background of a shell has SIGINT ignored, and its children would have it too.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == line
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)  # it is inside the library by now
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, output, errors


def test_ctrl_c_in_a_user_s_loop_ends_the_wait_for_a_stalled_stream(stalled, tmp_path):
    code, output, errors = interrupted([sys.executable, "-c", LIBRARY, stalled], signal.SIGINT, tmp_path)
    assert (code, output) == (5, "interrupted\n"), errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_stalled_stream_is_opened_ends_a_run(stalled, tmp_path, number):
    patient = LIBRARY[: LIBRARY.index("import brixel_edge")]
    code = patient + (
        "print('go', flush=True)\nfrom brixel_edge.commands.start import main\n"
        "sys.argv[1:] = ['--source', sys.argv[1], '--headless']\nsys.exit(main())"
    )
    returned, output, errors = interrupted([sys.executable, "-c", code, stalled], number, tmp_path)
    assert returned == 0, errors
    assert "processed    0 in" in output
    assert "Traceback" not in errors


# An engine that loads for ever, again and again inside its library, while the interpreter takes its time to end.
LOADING = """
import sys, time
import brixel_edge
from brixel_edge.runtimes.stream import feature_stream, run
class LongEnd:
    def __del__(self, sleep=time.sleep):
        sleep(2.0)
long_end = LongEnd()
def for_ever(real):
    def load(*given, **named):
        print("go", flush=True)
        while True:
            real(*given, **named)
    return load
feature_stream.open_model = for_ever(feature_stream.open_model)
run.open_engine_of_model = for_ever(run.open_engine_of_model)
"""
LIBRARY_LOADS = """
try:
    next(brixel_edge.stream(source="test:pattern", backend="BACKEND"))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("backend", "then", "code"),
    [("ort", "    sys.exit(5)", 5), ("ort", "", 0), ("ort", "    raise", -signal.SIGINT),
     ("openvino", "    sys.exit(5)", 5)],
)  # fmt: skip
def test_ctrl_c_while_the_library_loads_a_model_ends_the_process_as_it_should(tmp_path, backend, then, code):
    """CPython unwinds the stack of a daemon thread that returns to it at the end, which C++ answers by aborting."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    program = LOADING + LIBRARY_LOADS.replace("BACKEND", backend) + then
    ended = interrupted([sys.executable, "-c", program], signal.SIGINT, tmp_path)
    assert ended[:2] == (code, "interrupted\n"), ended[2]
    assert "terminate called" not in ended[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_model_is_loaded_ends_a_run_with_its_table(graph, tmp_path, number):
    program = LOADING + (
        "from brixel_edge.commands.start import main\n"
        "sys.argv[1:] = [sys.argv[1], '--source', 'test:pattern', '--headless', '--backend', 'ort']\nsys.exit(main())"
    )
    code, output, errors = interrupted([sys.executable, "-c", program, str(graph)], number, tmp_path)
    assert code == 0, errors
    assert "processed    0 in" in output
    assert "Traceback" not in errors


# Three frames, then a driver that hangs whatever is asked of it, or a camera that is lost and tried again.
LOST = """
import sys, threading, time
import numpy as np
from brixel_edge.runtimes.sources.frames import Frame, SourceStatus
from brixel_edge.runtimes.stream import run
from brixel_edge.runtimes.stream.feature_stream import OpenSources
class Lost:
    is_live, fps, skipped, description = True, 30.0, 0, "camera 0"
    def __init__(self):
        self.count, self.status, self.stop = 0, SourceStatus(), threading.Event()
    def read(self):
        self.count += 1
        if self.count <= 3:
            time.sleep(0.2)
            image = np.full((64, 96, 3), self.count, np.uint8)
            return Frame(image=image, index=self.count, t_capture_s=time.monotonic(), t_media_s=0.0, capture_s=0.0)
        threading.Timer(1.5, lambda: print("go", flush=True)).start()
        if sys.argv.pop() == "stalled":
            threading.Event().wait()
        self.status.failure = "timeout"
        self.stop.wait()
    def interrupt(self): self.stop.set()
    def close(self): pass
run.open_sources = lambda *_: OpenSources(sources=[Lost()], names=["camera 0"])
from brixel_edge.commands.start import main
sys.exit(main(sys.argv[1:-1]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("state", ["stalled", "reconnecting"])
def test_a_signal_ends_a_run_whose_camera_is_lost_with_its_table(graph, tmp_path, number, state):
    command = [sys.executable, "-c", LOST, str(graph), "--headless", "--json", "--backend", "ort", state]
    code, output, errors = interrupted(command, number, tmp_path)
    assert code == 0, errors
    report = json.loads(output)
    assert report["processed"] == 3
    assert report["health"]["sources"][0]["entered"].get(state) == 1
    assert "Traceback" not in errors


def test_a_second_interrupt_kills():
    before = signal.getsignal(signal.SIGINT)
    signals = StopSignals()
    signals.is_interrupting = False
    signals.install()
    try:
        assert not signals.is_set()
        signal.raise_signal(signal.SIGINT)
        assert signals.is_set()
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signals.restore()
    assert signal.getsignal(signal.SIGINT) == before


def test_what_is_opened_after_ctrl_c_is_closed_again():
    import threading

    from brixel_edge.runtimes.stream import waiting

    opened, may_open = threading.Event(), threading.Event()

    class Camera:
        def __init__(self):
            may_open.wait(30)
            self.closed = threading.Event()
            cameras.append(self)
            opened.set()

        def close(self):
            self.closed.set()

    cameras = []
    assert waiting._GRACE_S < 0.8  # the rest of the second is for the table
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "_GRACE_S", 0.0)
        patch.setattr(waiting, "_POLL_S", 0.01)
        timer = threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            waiting.result_of(Camera)
    signal.signal(signal.SIGINT, before)
    may_open.set()
    assert opened.wait(30)
    assert cameras[0].closed.wait(30)


def test_what_opening_raises_is_raised_to_who_waits():
    from brixel_edge.runtimes.stream.waiting import result_of

    def fail():
        raise ValueError("no such camera")

    with pytest.raises(ValueError, match="no such camera"):
        result_of(fail)
