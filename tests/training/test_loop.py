"""The training loop on a tiny ViT: what it writes, what it learns, and where it stops."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import STEPS, TINY, last_state, same_bits, weights

from brixel_edge.errors import TrainingError
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.model.backbones import BACKBONES, BackboneSpec
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.student import build_refiner, load_student
from brixel_edge.network.weights_hash import weights_hash
from brixel_edge.training.loop import train
from brixel_edge.training.losses import LossSettings
from brixel_edge.training.results import read_curve
from brixel_edge.training.settings import TrainSettings
from brixel_edge.training.views import ViewSettings

FAMILIES = {"siglip2": "vit_base_patch16_siglip_256.v2_webli", "pe": "vit_pe_spatial_base_patch16_512"}
SLOW_STEPS = 300


def test_a_run_writes_weights_that_load_and_a_record_of_how(uninterrupted):
    settings, record = uninterrupted
    written = json.loads((settings.out / "train.json").read_text())
    assert written["step"] == STEPS and written["licence"] == "Apache-2.0" and written["is_backbone_trained"] is False
    assert written["data"]["photographs"] == 11 and len(written["data"]["hash"]) == 64
    assert written["settings"]["losses"]["spectral"] == 0.1 and torch.__version__.startswith(
        written["versions"]["torch"]
    )
    assert written["backbone_hash"] == record.facts.backbone_hash and len(written["evaluations"]) == 2
    assert set(written["best"]["student"]) == {"cosine", "cosine_centred", "l1", "edge", "total"}
    backbone = load_backbone("tiny")
    student = load_student(backbone, settings.out / "adapter.safetensors")
    assert student(torch.zeros(1, 3, 32, 64)).shape == (1, 32, 8, 16)
    assert list((settings.out / "tensorboard").iterdir())
    with Image.open(settings.out / "panels" / f"step-{STEPS:08d}.png") as panel:
        assert panel.width > 4 * 256 and panel.height > 3 * 256


def test_the_curve_has_every_step_and_goes_down(uninterrupted):
    settings, _ = uninterrupted
    rows = read_curve(settings.out / "losses.csv")
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert [row["learning_rate"] for row in rows] == [1e-4] * 2 + [1e-3] * (STEPS - 2)  # 11 photographs: 2 batches of 4
    totals = [row["total"] for row in rows]
    assert np.mean(totals[-4:]) < 0.95 * np.mean(totals[:4])
    assert rows[0]["total"] == pytest.approx(rows[0]["l1"] + rows[0]["edge"] + 0.1 * rows[0]["spectral"], rel=1e-5)


def test_training_brings_the_student_closer_to_the_teacher_on_other_photographs(uninterrupted):
    _, record = uninterrupted
    first, last = (scores.student for scores in record.evaluations)
    assert last["l1"] < first["l1"] and last["edge"] < first["edge"] and last["cosine"] > first["cosine"]
    baselines = [scores.baseline for scores in record.evaluations]
    assert baselines[0] == baselines[1]


def test_the_backbone_stays_as_it_was_and_adapter_and_head_move(uninterrupted):
    settings, record = uninterrupted

    assert weights_hash(load_backbone("tiny")) == record.facts.backbone_hash
    before = build_refiner(32, 2).state_dict()
    moved = {key for key, value in weights(settings).items() if not torch.equal(value, before[key])}
    assert {"adapter.spm.stem.0.weight", "head.out_conv.weight", "adapter.level_embed"} <= moved


def test_the_same_seed_gives_the_same_bits_and_another_one_others(settings, uninterrupted, tmp_path):
    train(dataclasses.replace(settings, workers=1, prefetch=1))
    assert same_bits(weights(settings), weights(uninterrupted[0]))
    other = dataclasses.replace(settings, seed=1, out=tmp_path / "other", steps=2, eval_every=2)
    train(other)
    assert not same_bits(weights(other), weights(settings))


def test_one_photograph_a_step_is_enough_for_batchnorm(settings):
    record = train(dataclasses.replace(settings, batch=1, steps=20, eval_every=20))
    assert record.best.student["total"] < 1.1 * record.best.baseline["total"]


def test_each_loss_term_can_be_left_out(settings):
    losses = LossSettings(edge=0.0, spectral=0.0)
    train(dataclasses.replace(settings, losses=losses, steps=2, eval_every=2))
    assert set(read_curve(settings.out / "losses.csv")[0]) == {"step", "learning_rate", "total", "l1"}


@pytest.mark.parametrize("full_frame", [False, True])
def test_the_conv_adapter_is_trained_and_loads(settings, full_frame, tmp_path):
    conv = ConvSettings(width=32, full_frame=full_frame)
    cached = dict(cache=tmp_path / "maps", cache_budget_bytes=2**30)
    record = train(dataclasses.replace(settings, adapter="conv", conv=conv, steps=4, eval_every=4, **cached))
    student = load_student(load_backbone("tiny"), settings.out / "adapter.safetensors", "conv")
    image = torch.zeros(1, 3, 128, 128) if full_frame else torch.zeros(1, 3, 32, 32)
    assert student(image).shape == (1, 32, 8, 8) and np.isfinite(record.best.student["total"])


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_of_backbones(settings, family, monkeypatch):
    monkeypatch.setitem(BACKBONES, family, BackboneSpec(**dict(TINY, timm_name=FAMILIES[family])))
    record = train(dataclasses.replace(settings, backbone=family, steps=1, eval_every=1, warmup_steps=0))
    assert np.isfinite(record.best.student["total"])


def test_patch_14(settings):
    views = ViewSettings(sizes=((28, 28),))
    train(dataclasses.replace(settings, backbone="tiny14", views=views, steps=2, eval_every=2))
    assert load_student(load_backbone("tiny14"), settings.out / "adapter.safetensors")(
        torch.zeros(1, 3, 28, 56)
    ).shape == (1, 32, 8, 16)


def test_a_teacher_in_bf16_gives_nearly_the_same_losses(settings, uninterrupted):
    train(dataclasses.replace(settings, teacher_precision="bf16", steps=3, eval_every=3))
    ours, theirs = (read_curve(run.out / "losses.csv")[:2] for run in (settings, uninterrupted[0]))
    assert ours[0]["total"] != theirs[0]["total"]
    assert [row["total"] for row in ours] == pytest.approx([row["total"] for row in theirs], rel=0.02)


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_files(settings):
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is not a number .*train\d\d\.jpg") as caught:
        train(dataclasses.replace(settings, learning_rate=1e30, warmup_steps=0))
    assert caught.value.exit_code == 4
    state = last_state(settings)
    assert state is None or all(torch.isfinite(x).all() for x in state["refiner"].values())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile warns of its own parts
def test_a_compiled_teacher_gives_nearly_the_same_losses(settings, uninterrupted):
    train(dataclasses.replace(settings, is_compiled=True, steps=3, eval_every=3))
    ours, theirs = (read_curve(run.out / "losses.csv")[:2] for run in (settings, uninterrupted[0]))
    assert [row["total"] for row in ours] == pytest.approx([row["total"] for row in theirs], rel=1e-3)


@pytest.mark.slow
def test_a_few_minutes_on_real_photographs_beat_the_bilinear_baseline(shared, tmp_path):
    """A trained ViT-Ti, 365 photographs to train on and 30 others; about four minutes on one core."""
    weights_file = shared / "data" / "backbones" / "vit_tiny_patch16_224.safetensors"
    photographs = sorted((shared / "data" / "photos").rglob("*.jpg"))
    if not weights_file.is_file() or len(photographs) < 100:
        pytest.skip("the shared folder has no photographs or no trained backbone")
    held_out = photographs[6::13]
    record = train(
        TrainSettings(
            data=tuple(str(path) for path in photographs if path not in held_out),
            val=tuple(str(path) for path in held_out),
            out=tmp_path / "run",
            backbone="vit_tiny_patch16_224",
            backbone_weights=str(weights_file),
            views=ViewSettings(sizes=((128, 128),)),
            batch=8,
            steps=SLOW_STEPS,
            warmup_steps=30,
            schedule="cosine",
            eval_every=100,
            device="cpu",
            cache=tmp_path / "maps",
            cache_budget_bytes=2**30,
        )
    )
    best = record.best
    print(json.dumps(record.to_json()["evaluations"], indent=1))
    assert best.photographs == len(held_out)
    assert best.student["l1"] < 0.97 * best.baseline["l1"]
    assert best.student["edge"] < 0.97 * best.baseline["edge"]
    assert best.student["cosine"] > best.baseline["cosine"]
