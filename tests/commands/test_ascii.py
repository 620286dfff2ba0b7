"""Output where the terminal knows ASCII alone: tables, errors and names with accents."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import cv2
import pytest
import tiny_bundle
import tiny_model


@pytest.fixture(scope="module")
def world(tmp_path_factory, photographs):
    """A model directory and a folder of photographs, with names that ASCII has not."""
    folder = tmp_path_factory.mktemp("ascii")
    tiny_bundle.save(folder / "modèle.brixel")
    tiny_model.save(folder / "größe→.onnx")
    (folder / "bilder ü").mkdir()
    done, data = cv2.imencode(".jpg", photographs[1])
    assert done
    (folder / "bilder ü" / "é.jpg").write_bytes(data.tobytes())
    return folder


def run(folder, program, *arguments):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "BRIXEL_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", f"brixel_edge.commands.{program}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, env=environment, timeout=120)


TABLES = [
    ("run", "modèle.brixel", "--source", "bilder ü", "--headless"),
    ("run", "größe→.onnx", "--source", "bilder ü/é.jpg", "--headless", "--save", "ausgäbe"),
    ("run", "modèle.brixel", "--source", "bilder ü", "--headless", "--json"),
    ("verify", "modèle.brixel"),
    ("inspect", "modèle.brixel"),
    ("bench", "modèle.brixel"),
]
ERRORS = [
    ("run", "modèle.brixel", "--source", "weg→.mp4", "--headless"),
    ("run", "--wie→"),
    ("verify", "weg→.brixel"),
    ("inspect", "weg→.brixel"),
    ("bench", "weg→.brixel"),
]


@pytest.mark.parametrize("command", TABLES, ids=" ".join)
def test_tables_are_written_where_the_terminal_is_ascii(world, command):
    ended = run(world, *command)
    shutil.rmtree(world / "ausgäbe", ignore_errors=True)
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")
    assert b"Traceback" not in ended.stderr
    told = ended.stdout.decode("ascii")
    assert any(name in told for name in ("mod\\xe8le.brixel", "mod\\u00e8le.brixel", "gr\\xf6\\xdfe\\u2192.onnx"))
    ended.stderr.decode("ascii")


@pytest.mark.parametrize("command", ERRORS, ids=" ".join)
def test_errors_are_one_line_where_the_terminal_is_ascii(world, command):
    ended = run(world, *command)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == b""
    [line] = ended.stderr.decode("ascii").splitlines()
    assert line.startswith(f"brixel-{command[0]}: error: ")
    assert "\\u2192" in line
