"""Files that are never half-written, and their digests."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from brixel_edge.machine.files import replacing, sha256_of, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("content", "kept"), [(b"\x00new", b"\x00new"), ("größe", "größe".encode())])
def test_new_content_is_there_after_the_rename_and_nothing_beside_it(tmp_path, content, kept):
    path = tmp_path / "model.json"
    path.write_bytes(b"old")
    write_atomically(path, content)
    assert path.read_bytes() == kept
    assert names(tmp_path) == ["model.json"]


@pytest.mark.parametrize("is_durable", [True, False])
def test_until_the_block_ends_the_old_content_is_there(tmp_path, is_durable):
    path = tmp_path / "engine.plan"
    path.write_bytes(b"old")
    with replacing(path, is_durable=is_durable) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent  # a rename across file systems is a copy
        assert temporary.suffix == ".plan"  # numpy and OpenCV choose their format by it
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["engine.plan"]


@pytest.mark.parametrize("error", [ValueError("full"), KeyboardInterrupt()])
def test_after_an_error_of_any_kind_the_file_is_as_it_was(tmp_path, error):
    path = tmp_path / "proof.npz"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_bytes(b"half of")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["proof.npz"]


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.png"):
        pass
    assert names(tmp_path) == []


def test_a_killed_process_leaves_the_old_content(tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(b"old")
    code = """
import os, signal, sys
from pathlib import Path
from brixel_edge.machine.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half of")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_digest_of_a_file_larger_than_a_block(tmp_path):
    content = os.urandom((1 << 20) + 5)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
