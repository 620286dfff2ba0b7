"""One question to a process of its own, whose memory is given back with its answer. JSON in, JSON out.

On a board the exporter waits beside a compiler that takes all the memory there is, so that what loads a large library
or a whole graph does it in a process that ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from brixel_edge import errors
from brixel_edge.errors import BrixelError, BuildError

_TOLD_LINES = 3


def ask(module: str, request: dict[str, Any], what: str) -> dict[str, Any]:
    """Run a module as a process and give its answer.

    Args:
        module: has `answering(...)` behind its `__main__`.
        request: plain JSON values.
        what: is being done, for messages.

    Raises:
        BrixelError: the one that the process ended with; BuildError where it ended without a word.
    """
    process = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    try:
        answer = json.loads(process.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        told = " | ".join(line for line in process.stderr.splitlines()[-_TOLD_LINES:] if line.strip())
        raise BuildError(
            f"{what} ended with status {process.returncode}: {told or 'it printed nothing'}; "
            "where memory ran out, close other programs and try again"
        ) from None
    if "error" in answer:
        kind = getattr(errors, answer["error"], BuildError)
        raise kind(answer["message"])
    return answer


def answering(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """The other side: read the request, print the answer, or the error that the user can mend."""
    request = json.loads(sys.stdin.read())
    # Libraries may print; only the answer may reach the pipe.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)
        try:
            result, code = answer(request), 0
        except BrixelError as error:
            kind = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
            result, code = {"error": kind, "message": str(error)}, error.exit_code
        pipe.write(json.dumps(result) + "\n")
    return code
