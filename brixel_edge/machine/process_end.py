"""The end of the interpreter while a thread of ours is inside a library that does not return.

Such threads are daemons: an engine that loads, a read that hangs in a driver. CPython before 3.14 ends a daemon thread,
where it next asks for the interpreter's lock, by unwinding its stack; through the frames of a C++ library, that aborts
the process (exit -6). And C's own end destroys what such a thread still uses. So where one is left behind, it may stop
instead of aborting, and the process ends as soon as the interpreter has.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import signal
import threading

PREFIX = "brixel-"
# An abort of the main thread would wait for ever; this ends it.
_LONGEST_END_S = 10


@functools.cache
def guard_process_end() -> None:
    """Call it before a thread is started that may be left behind, named `brixel-...`; further calls do nothing."""
    atexit.register(_let_threads_be)


def _let_threads_be() -> None:
    if not any(thread.name.startswith(PREFIX) and thread.daemon for thread in threading.enumerate()):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "on_exit"):  # glibc has it; elsewhere it stays as it is
        return
    with contextlib.suppress(OSError, AttributeError):  # std::set_terminate, which would print a line before it aborts
        ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"](_address(libc.pause))
    libc.signal.restype = ctypes.c_void_p
    libc.signal(int(signal.SIGABRT), _address(libc.pause))
    libc.signal(int(signal.SIGALRM), None)
    libc.alarm(_LONGEST_END_S)
    # The last one registered runs first: C's files are written, then the process ends with the code that it was given.
    libc.on_exit(_address(libc._exit), None)
    libc.on_exit(_address(libc.fcloseall), None)


def _address(function: object) -> ctypes.c_void_p:
    return ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]  # a function of a library
