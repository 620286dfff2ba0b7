"""What all commands share: common flags, one line for an error, its exit code, results on stdout.

A command is a function from parsed arguments to its result, once as plain JSON values and once as text for people.
Everything else (progress, warnings, errors) goes to stderr. Imports nothing heavy, so that `--help` stays quick.
"""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from brixel_edge.errors import BackendMissing, BrixelError, BundleError, MemoryBudgetError, SpecError
from brixel_edge.machine.addresses import label_from_address

Command = Callable[[argparse.Namespace], tuple[dict[str, Any], str]]

LOGGER_NAME = "brixel_edge"
EXIT_INTERNAL = 1
_DISK = {
    errno.ENOSPC: "the disk is full; free some space, or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space, or write elsewhere",
    errno.EROFS: "the disk is read only; write elsewhere",
    errno.EACCES: "this may not be written; write elsewhere",
}
EXIT_INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that every command has."""
    parser.add_argument("--json", action="store_true", help="print the result, or the error, as JSON on stdout")
    parser.add_argument("--debug", action="store_true", help="on an error, print the traceback; log details")
    parser.add_argument("--version", action=_PrintVersion, help="print the version and exit")


class _PrintVersion(argparse.Action):
    """Looks the version up only when it is asked for: importlib.metadata costs more than argparse itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"{parser.prog} {version('brixel-edge')}")
        parser.exit()


def run_command(parser: argparse.ArgumentParser, command: Command, argv: list[str] | None = None) -> int:
    """Parse, run, print the result.

    Args:
        parser: with the flags of `add_common_arguments`; its `prog` names the command in messages.
        command: returns (what --json prints, what is printed for people).
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        the exit code: 0, that of the BrixelError, 1 for an error of ours, 130 when interrupted.

    Raises:
        SystemExit: by argparse, with 0 for --help and 2 for a usage error.
    """
    # Replaced on this one parser: a class of ours would be a second thing that every command has to know.
    parser.error = functools.partial(_usage_error, parser)  # type: ignore[method-assign]  # argparse has no hook
    if argv is None and isinstance(sys.stdout, io.TextIOWrapper):
        # A name with an accent must not end a run where stdout is ASCII; stderr does this by itself.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = parser.parse_args(argv)
    level = logging.DEBUG if arguments.debug else logging.WARNING
    try:
        with _log_to_stderr(parser.prog, level):
            record, text = command(arguments)
        print(json.dumps(record) if arguments.json else text, flush=True)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) is gone; the interpreter must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        return _report(error, parser.prog, as_json=arguments.json, debug=arguments.debug)
    return 0


def _usage_error(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """One line, where argparse prints the usage of all flags in front of it."""
    parser.exit(
        SpecError.exit_code,
        f"{parser.prog}: error: {label_from_address(message)}; {parser.prog} --help lists all flags\n",
    )


def _report(error: Exception, program: str, as_json: bool, debug: bool) -> int:
    """One line for people, JSON for machines, and the exit code."""
    message, code = label_from_address(" ".join(str(error).split())), EXIT_INTERNAL
    if isinstance(error, BrixelError):
        code = error.exit_code
    elif isinstance(error, OSError) and error.errno in _DISK:
        where = f" ({error.filename})" if error.filename else ""
        message, code = f"{_DISK[error.errno]}{where}", BundleError.exit_code
    elif isinstance(error, MemoryError):
        message, code = "out of memory; use a smaller model or image size", MemoryBudgetError.exit_code
    else:
        message = f"internal error: {type(error).__name__}: {message}; please report it with what --debug prints"
    if debug:
        print(label_from_address("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    print(f"{program}: error: {message}", file=sys.stderr, flush=True)
    if as_json:
        record = {"error": {"kind": type(error).__name__, "message": message}, "exit_code": code}
        print(json.dumps(record), flush=True)
    return code


@contextmanager
def _log_to_stderr(program: str, level: int) -> Iterator[None]:
    """Show the package's log lines in the same form as errors, as long as the command runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter(program))
    logger = logging.getLogger(LOGGER_NAME)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _LineFormatter(logging.Formatter):
    """`brixel-run: warning: ...`, like the error lines."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program

    def format(self, record: logging.LogRecord) -> str:
        return f"{self.program}: {record.levelname.lower()}: {label_from_address(record.getMessage())}"


def require_packages(program: str, extra: str, *names: str) -> None:
    """Import packages now, so that a missing one is named before any work.

    Args:
        program: that needs them, as the user typed it.
        extra: of brixel-edge that brings them.
        names: of the modules.

    Raises:
        BackendMissing: one is not there, or lacks what it needs itself.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise BackendMissing(f"{program} needs {error.name or name}: pip install 'brixel-edge[{extra}]'") from error


@contextmanager
def quiet_unless_first() -> Iterator[None]:
    """Of the processes of torchrun only the first one talks on stdout."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
        yield
