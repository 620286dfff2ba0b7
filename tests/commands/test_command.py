"""What all commands share: one line for an error, its exit code, JSON on stdout, no trace left in logging."""

from __future__ import annotations

import argparse
import ast
import errno
import importlib
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from brixel_edge import errors
from brixel_edge.commands.command import add_common_arguments, run_command


def parser():
    made = argparse.ArgumentParser(prog="brixel-test")
    made.add_argument("--size")
    add_common_arguments(made)
    return made


def failing_with(error):
    def command(arguments):
        raise error

    return command


def test_a_result_is_text_for_people(capsys):
    assert run_command(parser(), lambda arguments: ({"size": arguments.size}, "size is 4"), ["--size", "4"]) == 0
    assert capsys.readouterr() == ("size is 4\n", "")


def test_a_result_is_json_for_machines(capsys):
    assert run_command(parser(), lambda arguments: ({"size": 4}, "size is 4"), ["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"size": 4}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SpecError("no"), 2), (errors.BundleError("no"), 2), (errors.BackendMissing("no"), 3),
        (errors.BuildError("no"), 4), (errors.ParityError("no"), 5), (errors.MemoryBudgetError("no"), 6),
        (errors.SourceError("no"), 7),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)  # fmt: skip
def test_each_error_is_one_line_and_its_code(error, code, capsys):
    assert run_command(parser(), failing_with(error), []) == code
    assert capsys.readouterr() == ("", "brixel-test: error: no\n")


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full; free some space, or write elsewhere (out.brixel)"), (errno.EROFS, "read only")],
)
def test_a_full_disk_is_one_line_and_its_code(number, message, capsys):
    error = OSError(number, "words of the system", "out.brixel")
    assert run_command(parser(), failing_with(error), []) == 2
    captured = capsys.readouterr().err
    assert message in captured and "internal error" not in captured and captured.count("\n") == 1


def test_a_message_of_several_lines_becomes_one(capsys):
    run_command(parser(), failing_with(errors.SpecError("first\n  second")), [])
    assert capsys.readouterr().err == "brixel-test: error: first second\n"


def test_an_error_is_json_too(capsys):
    assert run_command(parser(), failing_with(errors.SourceError("gone")), ["--json"]) == 7
    record = json.loads(capsys.readouterr().out)
    assert record == {"error": {"kind": "SourceError", "message": "gone"}, "exit_code": 7}


def test_debug_shows_the_traceback(capsys):
    run_command(parser(), failing_with(errors.SpecError("no")), ["--debug"])
    assert "in command" in capsys.readouterr().err


def test_a_mistake_of_ours_is_one_line_and_says_so(capsys):
    assert run_command(parser(), failing_with(KeyError("grid")), []) == 1
    assert "internal error: KeyError: 'grid'; please report it" in capsys.readouterr().err


def test_running_out_of_memory_has_the_code_of_memory(capsys):
    assert run_command(parser(), failing_with(MemoryError()), []) == 6
    assert "out of memory" in capsys.readouterr().err


def test_an_interrupt_is_no_traceback(capsys):
    assert run_command(parser(), failing_with(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "brixel-test: interrupted\n"


def test_a_usage_error_is_one_line_too(capsys):
    with pytest.raises(SystemExit) as end:
        run_command(parser(), failing_with(AssertionError), ["--sise", "4"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "brixel-test: error: unrecognized arguments: --sise 4; brixel-test --help lists all flags"


def test_usage_errors_are_two():
    with pytest.raises(SystemExit) as end:
        run_command(parser(), lambda arguments: ({}, ""), ["--no-such-flag"])
    assert end.value.code == 2


def test_the_version_is_the_package_s(capsys):
    from importlib.metadata import version

    with pytest.raises(SystemExit) as end:
        run_command(parser(), lambda arguments: ({}, ""), ["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"brixel-test {version('brixel-edge')}\n"


def test_warnings_look_like_errors_and_logging_is_left_as_it_was(capsys):
    logger = logging.getLogger("brixel_edge")
    before = (list(logger.handlers), logger.level, logger.propagate)

    def command(arguments):
        logging.getLogger("brixel_edge.somewhere").warning("odd %d", 3)
        logging.getLogger("brixel_edge.somewhere").info("detail")
        return {}, "done"

    run_command(parser(), command, [])
    assert capsys.readouterr() == ("done\n", "brixel-test: warning: odd 3\n")
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    """`brixel-x | head -1`: no traceback, also not when the interpreter flushes at its end."""
    code = (
        "import argparse, sys\n"
        "from brixel_edge.commands.command import add_common_arguments, run_command\n"
        "parser = argparse.ArgumentParser(prog='p'); add_common_arguments(parser)\n"
        "sys.exit(run_command(parser, lambda a: ({}, 'line\\n' * 100000), []))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert child.stdout is not None
    assert child.stderr is not None
    with child:
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 0


# Of other programs: python -m venv, torchrun, pip, apt, ros2.
FOREIGN = {"--system-site-packages", "--nproc-per-node", "--force-reinstall", "--reinstall", "--once"}
FLAG = r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w-])"


def test_every_flag_that_a_message_names_exists():
    root = Path(__file__).resolve().parents[2]
    modules = [
        importlib.import_module(f"brixel_edge.commands.{path.stem}")
        for path in (root / "brixel_edge" / "commands").glob("*.py")
    ]
    parsers = [module.build_parser() for module in modules if hasattr(module, "build_parser")]
    assert len(parsers) >= 7
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    named = set()
    for folder in ("brixel_edge", "export", "runtimes", "calib"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    named |= {(flag, path.name) for flag in re.findall(FLAG, node.value)}
    assert len(named) > 50
    assert {(flag, name) for flag, name in named if flag not in known | FOREIGN} == set()


def test_an_ascii_terminal_gets_names_with_accents_escaped(tmp_path):
    import os

    code = (
        "import argparse\nfrom brixel_edge.commands.command import add_common_arguments, run_command\n"
        "parser = argparse.ArgumentParser(prog='brixel-test')\nadd_common_arguments(parser)\n"
        "run_command(parser, lambda _: ({}, 'caf\\u00e9.jpg'))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "caf\\xe9.jpg\n", "")
