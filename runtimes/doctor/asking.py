"""Asking a library or a device in a process of its own, for a limited time.

A broken library ends a process without an exception, a wedged driver never answers. Neither may take the doctor along,
and what a library loads is given back with its process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PROBE = "brixel_edge.runtimes.doctor.probe"
# Importing OpenVINO on a busy board took seconds; a camera's driver that is silent for so long is wedged.
LIMIT_S = 20.0
_POLL_S = 0.02
_LAST_WAIT_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a child said.

    Attributes:
        facts: plain JSON values; empty where it failed.
        failure: why there are none; None where there are.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


# Takes what to ask for, and of what.
Ask = Callable[[str, str], Answer]


def ask_in_child(what: str, of: str = "", *, limit_s: float = LIMIT_S, module: str = PROBE) -> Answer:
    """Ask.

    Args:
        what: name of a probe, see `brixel_edge.runtimes.doctor.probe`.
        of: its argument, for instance a device.
        limit_s: after which the child is killed; one that even this does not end is left behind.
        module: that answers.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        # Files, not pipes: a child that cannot be killed holds a pipe open for ever.
        child = subprocess.Popen(
            [sys.executable, "-m", module, what, of], stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        deadline_s = time.monotonic() + limit_s
        while child.poll() is None and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        if child.poll() is None:
            child.kill()
            _wait(child)
            return Answer(failure=f"no answer within {limit_s:g} s")
        output.seek(0)
        errors.seek(0)
        return _answer(child.returncode, output.read(), errors.read().decode(errors="replace"))


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(_LAST_WAIT_S)
    except subprocess.TimeoutExpired:
        # In the kernel, where no signal reaches it; Python must not warn that it still runs.
        child.returncode = -signal.SIGKILL


def _answer(code: int, output: bytes, errors: str) -> Answer:
    if code < 0:
        return Answer(failure=f"ended by {signal.Signals(-code).name}")
    try:
        record = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        told = [line for line in errors.splitlines() if line.strip()]
        return Answer(failure=told[-1].strip() if told else f"ended with status {code}")
    return Answer(failure=record["failure"]) if "failure" in record else Answer(facts=record)
