"""What a run leaves on the disk, a full one included, and the file for the authors' code."""

import dataclasses
import errno
import logging

import pytest
import torch
from tiny_training import STEPS, last_state

from brixel_edge.errors import TrainingError
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.official_adapter import official_state
from brixel_edge.network.student import build_refiner, load_student
from brixel_edge.training import checkpoints
from brixel_edge.training import results as training_results
from brixel_edge.training.loop import train


def test_a_full_disk_while_training_is_survived(settings, monkeypatch, caplog):
    ordinary = checkpoints.write_atomically

    def full(path, content):
        if path.name > "step-00000004.ckpt":
            raise OSError(errno.ENOSPC, "No space left on device")
        ordinary(path, content)

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    with caplog.at_level(logging.WARNING):
        record = train(settings)
    assert record.step == STEPS and "the last good one is" in caplog.text
    assert last_state(settings)["step"] == 4
    assert (settings.out / "adapter.safetensors").is_file()


def test_weights_that_cannot_be_written_at_the_end_are_an_error(settings, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training_results, "save_adapter", full)
    with caplog.at_level(logging.WARNING), pytest.raises(TrainingError, match="make room and run the same command"):
        train(dataclasses.replace(settings, steps=2, eval_every=1))
    assert "could not be written" in caplog.text and "training goes on" in caplog.text


def test_the_official_file_gives_the_same_features(settings, tmp_path):
    path = tmp_path / "official.pth"
    train(dataclasses.replace(settings, steps=2, eval_every=2, export_official=path))
    backbone = load_backbone("tiny")
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours, theirs = (load_student(backbone, file)(image) for file in (settings.out / "adapter.safetensors", path))
    assert torch.equal(ours, theirs)


def test_every_key_of_the_authors_file_is_written_at_their_width(shared):
    authors = torch.load(shared / "golden" / "official_vit_tiny" / "adapter.pth", weights_only=True)
    written = official_state(build_refiner(192, 4).state_dict())
    assert {key: value.shape for key, value in written.items()} == {key: value.shape for key, value in authors.items()}
