"""Checkpoints are whole or not there, and what a run says when they are not."""

import errno
import logging
import os

import pytest
import torch

from brixel_edge.errors import BundleError
from brixel_edge.training import checkpoints
from brixel_edge.training.checkpoints import (
    checkpoint_files,
    last_checkpoint,
    read_checkpoint,
    save_checkpoint,
    write_atomically,
)


def state(number):
    return {
        "step": number,
        "weights": torch.arange(1000.0) + number,
        "best": float("inf"),
        "evaluations": [{"l1": 0.5}],
    }


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20, 30):
        assert save_checkpoint(tmp_path / "checkpoints", step, state(step))
    return tmp_path / "checkpoints"


def test_what_is_saved_is_read_back(folder):
    content = last_checkpoint(folder)
    assert content is not None and content["step"] == 30 and content["evaluations"] == [{"l1": 0.5}]
    assert torch.equal(content["weights"], state(30)["weights"])


def test_the_last_two_are_kept_and_nothing_else_is_left(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000020.ckpt", "step-00000030.ckpt"]


def test_no_checkpoint_is_none(tmp_path):
    assert last_checkpoint(tmp_path / "nothing") is None


DAMAGES = {
    "cut off": lambda data: data[:-100],
    "a flipped bit": lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
    "empty": lambda data: b"",
    "of another kind": lambda data: b"PK\x03\x04" + data,
    "longer": lambda data: data + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_named(folder, damage, caplog):
    newest = folder / "step-00000030.ckpt"
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    with caplog.at_level(logging.WARNING):
        content = last_checkpoint(folder)
    assert content is not None and content["step"] == 20
    assert "step-00000030.ckpt" in caplog.text and "going back to the one before" in caplog.text


def test_when_all_are_damaged_nothing_is_begun_anew_in_silence(folder):
    for path in checkpoint_files(folder):
        path.write_bytes(b"no")
    with pytest.raises(BundleError, match="all 2 checkpoints"):
        last_checkpoint(folder)


def test_a_full_disk_leaves_the_last_good_checkpoint(folder, monkeypatch, caplog):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        assert not save_checkpoint(folder, 40, state(40))
    assert "No space left on device" in caplog.text and "step-00000030.ckpt" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000020.ckpt", "step-00000030.ckpt"]
    assert read_checkpoint(folder / "step-00000030.ckpt")["step"] == 30


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def broken(_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_code_hidden_in_a_checkpoint_is_not_run(tmp_path):
    import hashlib
    import io
    import pickle

    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("owned").touch, ())

    stream = io.BytesIO()
    pickle.dump(Evil(), stream, protocol=2)
    payload = stream.getvalue()
    header = b"%s %d %s\n" % (checkpoints.MAGIC, len(payload), hashlib.sha256(payload).hexdigest().encode())
    (tmp_path / "step-00000001.ckpt").write_bytes(header + payload)
    with pytest.raises(BundleError):
        read_checkpoint(tmp_path / "step-00000001.ckpt")
    assert not (tmp_path / "owned").exists()
