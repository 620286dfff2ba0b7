"""A ViT of two blocks, 32 wide, runs that train on it, and what is looked at afterwards."""

from __future__ import annotations

import tarfile

import pytest
import torch
from safetensors.torch import load_file

from brixel_edge.training import checkpoints
from brixel_edge.training import step as training_step
from brixel_edge.training.loop import train
from brixel_edge.training.settings import TrainSettings
from brixel_edge.training.views import ViewSettings

TINY = dict(
    timm_name="vit_small_patch16_dinov3", patch_px=16, width=32, depth=2, tap_layers=(0, 1), licence="Apache-2.0",
    overrides=(("embed_dim", 32), ("depth", 2), ("num_heads", 2)),
)  # fmt: skip
TINY14 = dict(TINY, timm_name="vit_small_patch14_reg4_dinov2", patch_px=14)
STEPS = 8

# What another process needs to know to do the same.
PRELUDE = f"""
import torch
from brixel_edge.model.backbones import BACKBONES, BackboneSpec
BACKBONES["tiny"] = BackboneSpec(**{TINY!r})
torch.set_num_threads(1)
"""


def tiny_settings(folders, out):
    """A run of eight steps of four photographs, evaluated twice."""
    return TrainSettings(
        data=(str(folders / "train"),),
        val=(str(folders / "val"),),
        out=out,
        backbone="tiny",
        backbone_weights="random",
        views=ViewSettings(sizes=((32, 32),)),
        batch=4,
        steps=STEPS,
        save_every=2,
        eval_every=4,
        device="cpu",
        workers=2,
        teacher_precision="fp32",
    )


def weights(settings):
    """The tensors of a run's adapter file."""
    return load_file(settings.out / "adapter.safetensors")


def last_state(settings):
    """The content of a run's last checkpoint."""
    return checkpoints.last_checkpoint(settings.out / "checkpoints")


def same_bits(first, second):
    """Whether two state dicts are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def cut_short(settings, step, monkeypatch):
    """Train until a step, as if the power had gone."""
    ordinary = training_step.Distiller.step

    def failing(self, batch, number, rate):
        if number == step:
            raise KeyboardInterrupt
        return ordinary(self, batch, number, rate)

    with monkeypatch.context() as patch:
        patch.setattr(training_step.Distiller, "step", failing)
        with pytest.raises(KeyboardInterrupt):
            train(settings)


def write_shards(folder, source, count):
    """Spread a folder's photographs over tar shards."""
    paths = sorted(source.iterdir())
    for number in range(count):
        with tarfile.open(folder / f"part-{number}.tar", "w") as archive:
            for path in paths[number::count]:
                archive.add(path, arcname=path.name)
    return folder
