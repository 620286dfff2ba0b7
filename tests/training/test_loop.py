"""The training loop on a tiny ViT: what it writes, that it goes on where it was killed, that processes agree."""

import dataclasses
import errno
import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from brixel_edge.errors import BackendMissing, BundleError, DataError, SpecError, TrainingError
from brixel_edge.model.backbones import BACKBONES, BackboneSpec
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.conv_adapter import ConvSettings
from brixel_edge.network.student import load_student
from brixel_edge.training import checkpoints
from brixel_edge.training import results as train_results
from brixel_edge.training.loop import train
from brixel_edge.training.losses import LossSettings
from brixel_edge.training.results import read_curve
from brixel_edge.training.settings import TrainSettings, learning_rate_at
from brixel_edge.training.setup import chosen_device
from brixel_edge.training.views import ViewSettings

TINY = dict(
    timm_name="vit_small_patch16_dinov3", patch_px=16, width=32, depth=2, tap_layers=(0, 1), licence="Apache-2.0",
    overrides=(("embed_dim", 32), ("depth", 2), ("num_heads", 2)),
)  # fmt: skip
TINY14 = dict(TINY, timm_name="vit_small_patch14_reg4_dinov2", patch_px=14)
STEPS = 8
SLOW_STEPS = 300

# What another process needs to know to do the same.
PRELUDE = f"""
import torch
from brixel_edge.model.backbones import BACKBONES, BackboneSpec
BACKBONES["tiny"] = BackboneSpec(**{TINY!r})
torch.set_num_threads(1)
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", BackboneSpec(**TINY))
    monkeypatch.setitem(BACKBONES, "tiny14", BackboneSpec(**TINY14))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # results are the same bits only for the same number of threads
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, photograph_paths):
    """Eleven photographs to train on, three held out; 160 to 200 px."""
    root = tmp_path_factory.mktemp("photographs")
    for name, count in (("train", 11), ("val", 3)):
        (root / name).mkdir()
        for number in range(count):
            with Image.open(photograph_paths[number % len(photograph_paths)]) as image:
                left, top = 20 * number % 100, 10 * number
                part = image.convert("RGB").crop((left, top, left + 200, top + 160))
            part.save(root / name / f"{name}{number:02d}.jpg", quality=90)
    return root


@pytest.fixture
def settings(folders, tmp_path):
    return TrainSettings(
        data=(str(folders / "train"),),
        val=(str(folders / "val"),),
        out=tmp_path / "run",
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
    return load_file(settings.out / "adapter.safetensors")


def last_state(settings):
    return checkpoints.last_checkpoint(settings.out / "checkpoints")


def same_bits(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def uninterrupted(folders, tmp_path_factory):
    """One whole run, which others are compared with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", BackboneSpec(**TINY))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        whole = TrainSettings(
            data=(str(folders / "train"),), val=(str(folders / "val"),), out=tmp_path_factory.mktemp("whole") / "run",
            backbone="tiny", backbone_weights="random", views=ViewSettings(sizes=((32, 32),)), batch=4, steps=STEPS,
            save_every=2, eval_every=4, device="cpu", workers=2, teacher_precision="fp32",
        )  # fmt: skip
        record = train(whole)
        torch.set_num_threads(threads)
    return whole, record


# ---- what a run writes ----


def test_a_run_writes_weights_that_load_and_a_record_of_how(uninterrupted):
    settings, record = uninterrupted
    written = json.loads((settings.out / "train.json").read_text())
    assert written["step"] == STEPS and written["licence"] == "Apache-2.0" and written["is_backbone_trained"] is False
    assert written["data"]["photographs"] == 11 and len(written["data"]["hash"]) == 64
    assert written["settings"]["losses"]["spectral"] == 0.1 and torch.__version__.startswith(
        written["versions"]["torch"]
    )
    assert written["backbone_hash"] == record["backbone_hash"] and len(written["evaluations"]) == 2
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
    first, last = (item["student"] for item in record["evaluations"])
    assert last["l1"] < first["l1"] and last["edge"] < first["edge"] and last["cosine"] > first["cosine"]
    baselines = [item["baseline"] for item in record["evaluations"]]
    assert baselines[0] == baselines[1]


def test_the_best_weights_are_kept_and_not_the_last(settings):
    # At this rate the second half of the run makes everything worse.
    record = train(dataclasses.replace(settings, learning_rate=0.5, warmup_steps=4, eval_every=2))
    totals = {item["step"]: item["student"]["total"] for item in record["evaluations"]}
    assert record["best_step"] == min(totals, key=totals.get) < STEPS
    kept, last = weights(settings), last_state(settings)["refiner"]
    assert not torch.equal(kept["head.out_conv.weight"], last["head.out_conv.weight"])


def test_the_backbone_stays_as_it_was_and_adapter_and_head_move(uninterrupted):
    settings, record = uninterrupted
    from brixel_edge.network.student import build_refiner
    from brixel_edge.training.setup import weights_hash

    assert weights_hash(load_backbone("tiny")) == record["backbone_hash"]
    before = build_refiner(32, 2).state_dict()
    moved = {key for key, value in weights(settings).items() if not torch.equal(value, before[key])}
    assert {"adapter.spm.stem.0.weight", "head.out_conv.weight", "adapter.level_embed"} <= moved


def test_the_same_seed_gives_the_same_bits_and_another_one_others(settings, uninterrupted, tmp_path):
    train(dataclasses.replace(settings, workers=1, prefetch=1))
    assert same_bits(weights(settings), weights(uninterrupted[0]))
    other = dataclasses.replace(settings, seed=1, out=tmp_path / "other", steps=2, eval_every=2)
    train(other)
    assert not same_bits(weights(other), weights(settings))


# ---- going on ----


@pytest.fixture(scope="module")
def server():
    """Processes that have torch loaded when they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["brixel_edge.training.loop", "brixel_edge.commands.train"])
    return context


def started(server, settings, prelude=""):
    code = f"{PRELUDE}\n{prelude}\nfrom brixel_edge.training.loop import train\ntrain(settings)"
    process = server.Process(target=exec, args=(code, {"settings": settings}))
    process.start()
    return process


def wait_until(condition, process, timeout_s=120.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert process.is_alive() and time.monotonic() < end_s, "the run ended before it could be killed"
        time.sleep(0.002)


def test_a_killed_run_goes_on_to_the_same_bits(server, settings, uninterrupted):
    killed_at = random.SystemRandom().randrange(2, STEPS - 1)
    process = started(server, settings)
    curve = settings.out / "losses.csv"
    wait_until(lambda: curve.exists() and curve.read_text().count("\n") > killed_at, process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    state = last_state(settings)
    reached = state["step"] if state else 0  # killed while the first checkpoint was being written: from the beginning
    print(f"killed at step {killed_at}, its last checkpoint is of step {reached}")
    assert reached < STEPS
    train(dataclasses.replace(settings, is_resumed=True))
    whole, record = uninterrupted
    assert same_bits(weights(settings), weights(whole))
    assert same_bits(last_state(settings)["refiner"], last_state(whole)["refiner"])
    assert read_curve(curve) == read_curve(whole.out / "losses.csv")
    assert json.loads((settings.out / "train.json").read_text())["evaluations"] == record["evaluations"]


def cut_short(settings, step, monkeypatch):
    """Train until a step, as if the power had gone."""
    from brixel_edge.training import step as train_step

    ordinary = train_step.Distiller.step

    def failing(self, batch, number, rate):
        if number == step:
            raise KeyboardInterrupt
        return ordinary(self, batch, number, rate)

    with monkeypatch.context() as patch:
        patch.setattr(train_step.Distiller, "step", failing)
        with pytest.raises(KeyboardInterrupt):
            train(settings)


def test_a_damaged_checkpoint_costs_steps_but_changes_nothing(settings, uninterrupted, monkeypatch, caplog):
    cut_short(settings, 7, monkeypatch)
    newest = checkpoints.checkpoint_files(settings.out / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        train(dataclasses.replace(settings, is_resumed=True))
    assert "step-00000006.ckpt is damaged" in caplog.text and "going on at step 4 of 8" in caplog.text
    assert same_bits(weights(settings), weights(uninterrupted[0]))


def test_resuming_where_nothing_is_begins_and_says_so(settings, caplog):
    with caplog.at_level(logging.WARNING):
        train(dataclasses.replace(settings, steps=1, is_resumed=True, warmup_steps=0))
    assert "has no checkpoint; starting at the beginning" in caplog.text


def test_an_earlier_run_is_never_overwritten(uninterrupted):
    with pytest.raises(SpecError, match="add --resume"):
        train(uninterrupted[0])


def test_other_settings_do_not_go_on_an_earlier_run(uninterrupted):
    changed = dataclasses.replace(uninterrupted[0], is_resumed=True, learning_rate=2e-3, seed=4)
    with pytest.raises(BundleError, match=r"learning_rate: 0.001, now 0.002; seed: 0, now 4"):
        train(changed)


def test_a_run_at_a_constant_rate_can_be_made_longer(settings, uninterrupted):
    train(dataclasses.replace(settings, steps=5))
    train(dataclasses.replace(settings, is_resumed=True))
    assert same_bits(last_state(settings)["refiner"], last_state(uninterrupted[0])["refiner"])


# ---- several processes ----


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def joined(server, settings, world=2):
    port = free_port()
    processes = []
    for rank in range(world):
        names = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        prelude = f"import os\nos.environ.update({ {k: str(v) for k, v in names.items()} })"
        processes.append(started(server, settings, prelude))
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world


def test_two_processes_learn_what_one_learns_with_the_same_batch(server, settings, uninterrupted):
    joined(server, settings)
    whole, record = uninterrupted
    ours, theirs = (read_curve(run.out / "losses.csv") for run in (settings, whole))
    for one, two in zip(theirs, ours, strict=True):
        assert two["total"] == pytest.approx(one["total"], rel=1e-3)
    result = json.loads((settings.out / "train.json").read_text())
    assert result["processes"] == 2 and result["evaluations"][-1]["photographs"] == 3
    for name, value in record["evaluations"][-1]["student"].items():
        assert result["evaluations"][-1]["student"][name] == pytest.approx(value, rel=2e-3)


# ---- data ----


def test_sizes_crops_and_flips_mix_in_one_run(settings):
    views = ViewSettings(sizes=((32, 32), (32, 64), (64, 32)), crops="random", flips=True, max_upscale=1.7)
    record = train(dataclasses.replace(settings, views=views, batch=2, steps=8, eval_every=8))
    assert record["step"] == 8 and np.isfinite(record["best"]["student"]["total"])


FAMILIES = {"siglip2": "vit_base_patch16_siglip_256.v2_webli", "pe": "vit_pe_spatial_base_patch16_512"}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_of_backbones(settings, family, monkeypatch):
    monkeypatch.setitem(BACKBONES, family, BackboneSpec(**dict(TINY, timm_name=FAMILIES[family])))
    record = train(dataclasses.replace(settings, backbone=family, steps=1, eval_every=1, warmup_steps=0))
    assert np.isfinite(record["best"]["student"]["total"])


def test_a_teacher_in_bf16_gives_nearly_the_same_losses(settings, uninterrupted):
    train(dataclasses.replace(settings, teacher_precision="bf16", steps=3, eval_every=3))
    ours, theirs = (read_curve(run.out / "losses.csv")[:2] for run in (settings, uninterrupted[0]))
    assert ours[0]["total"] != theirs[0]["total"]
    assert [row["total"] for row in ours] == pytest.approx([row["total"] for row in theirs], rel=0.02)


def test_patch_14(settings):
    views = ViewSettings(sizes=((28, 28),))
    train(dataclasses.replace(settings, backbone="tiny14", views=views, steps=2, eval_every=2))
    assert load_student(load_backbone("tiny14"), settings.out / "adapter.safetensors")(
        torch.zeros(1, 3, 28, 56)
    ).shape == (1, 32, 8, 16)


def test_a_size_that_does_not_fit_the_patch_is_refused(settings):
    with pytest.raises(SpecError, match="not a multiple of 32; use 32 or 64"):
        train(dataclasses.replace(settings, views=ViewSettings(sizes=((48, 32),))))


def test_one_photograph_a_step_is_enough_for_batchnorm(settings):
    record = train(dataclasses.replace(settings, batch=1, steps=20, eval_every=20))
    assert record["best"]["student"]["total"] < 1.1 * record["best"]["baseline"]["total"]


def test_a_photograph_that_turns_out_damaged_is_replaced_and_counted(settings, folders, tmp_path, caplog):
    data = tmp_path / "data"
    data.mkdir()
    for path in (folders / "train").iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    broken = data / "train03.jpg"
    broken.write_bytes(broken.read_bytes()[:3000])
    (data / "notes.txt").write_text("no picture")
    with caplog.at_level(logging.WARNING):
        record = train(dataclasses.replace(settings, data=(str(data),)))
    assert record["left_out_while_training"] == {"truncated or damaged": 1}
    assert record["data"]["left_out"] == {"not an image": 1}
    assert caplog.text.count("train03.jpg: truncated or damaged") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 12}, "11 of 11 photographs are large enough, too few for a batch of 12"),
        ({"views": ViewSettings(sizes=((64, 64),))}, "0 of 11 photographs are large enough"),
        ({"data": ("nowhere",)}, "no such data: nowhere"),
        ({"val": ("https://example.org/a.tar",)}, "--val must be read again and again"),
        ({"data": ("https://example.org/a.tar",), "steps": None}, "give --steps"),
    ],
)
def test_data_that_cannot_serve_is_refused(settings, changes, message):
    with pytest.raises(DataError, match=message):
        train(dataclasses.replace(settings, **changes))
    assert not settings.out.exists()


def test_held_out_photographs_that_are_too_small_are_refused(settings, tmp_path):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (60, 60)).save(tmp_path / "val" / "a.png")
    with pytest.raises(DataError, match="none of 1 held-out photographs"):
        train(dataclasses.replace(settings, val=(str(tmp_path / "val"),)))


def write_shards(folder, source, count):
    import tarfile

    paths = sorted(source.iterdir())
    for number in range(count):
        with tarfile.open(folder / f"part-{number}.tar", "w") as archive:
            for path in paths[number::count]:
                archive.add(path, arcname=path.name)
    return folder


def test_shards_are_as_good_as_a_folder(settings, folders, tmp_path):
    write_shards(tmp_path, folders / "train", 2)
    record = train(dataclasses.replace(settings, data=(str(tmp_path / "part-{0..1}.tar"),), steps=2, eval_every=2))
    assert record["data"]["photographs"] == 11


def test_a_streamed_run_goes_on_to_the_same_bits(settings, folders, tmp_path, monkeypatch):
    write_shards(tmp_path, folders / "train", 2)
    shards = tuple(f"pipe:cat {tmp_path / f'part-{number}.tar'}" for number in range(2))
    streamed = dataclasses.replace(settings, data=shards, steps=7, eval_every=7, views=ViewSettings(
        sizes=((32, 32), (32, 64)), crops="random", max_upscale=1.7))  # fmt: skip
    train(streamed)
    stopped = dataclasses.replace(streamed, out=tmp_path / "stopped")
    cut_short(stopped, 5, monkeypatch)
    train(dataclasses.replace(stopped, is_resumed=True))
    assert same_bits(weights(streamed), weights(stopped))


# ---- the teacher's maps ----


def test_cached_maps_spare_the_teacher_and_change_nothing(settings, tmp_path, monkeypatch):
    cached = dataclasses.replace(settings, cache=tmp_path / "maps", cache_budget_bytes=2**30, steps=6)
    first = train(cached)
    from brixel_edge.training import step as train_step

    seen = []
    ordinary = train_step.Distiller.teacher_maps
    monkeypatch.setattr(train_step.Distiller, "teacher_maps", lambda self, x: seen.append(len(x)) or ordinary(self, x))
    again = dataclasses.replace(cached, out=tmp_path / "again")
    train(again)
    # 11 photographs in batches of 4: at most those that no batch of the first run had, and the 3 held out.
    assert sum(seen) - 3 <= 11 - len(list((tmp_path / "maps").glob("*/*.npz"))) or sum(seen) == 3
    assert same_bits(weights(again), weights(cached))
    assert first["settings"]["cache"] == str(tmp_path / "maps")


def test_a_cache_over_its_budget_is_refused(settings, tmp_path):
    with pytest.raises(DataError, match="--cache-budget"):
        train(dataclasses.replace(settings, cache=tmp_path / "maps", cache_budget_bytes=1000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cache": "maps", "cache_budget_bytes": 10, "views": ViewSettings(crops="random")},
            "leave --cache or --crops",
        ),
        ({"cache": "maps"}, "--cache needs --cache-budget"),
        ({"batch": 0}, "batch 0 must be 1 or more"),
        ({"learning_rate": 0.0}, "above zero"),
        ({"drop_path": 1.0}, "below 1"),
        ({"schedule": "linear"}, "constant, cosine"),
        ({"adapter": "none"}, "nothing to train"),
        ({"adapter": "conv", "export_official": "x.pth"}, "paper's adapter"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, changes, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(settings, **changes)


# ---- what goes wrong ----


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_files(settings):
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is not a number .*train\d\d\.jpg") as caught:
        train(dataclasses.replace(settings, learning_rate=1e30, warmup_steps=0))
    assert caught.value.exit_code == 4
    state = last_state(settings)
    assert state is None or all(torch.isfinite(x).all() for x in state["refiner"].values())


def test_a_full_disk_while_training_is_survived(settings, monkeypatch, caplog):
    ordinary = checkpoints.write_atomically

    def full(path, content):
        if path.name > "step-00000004.ckpt":
            raise OSError(errno.ENOSPC, "No space left on device")
        ordinary(path, content)

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    with caplog.at_level(logging.WARNING):
        record = train(settings)
    assert record["step"] == STEPS and "the last good one is" in caplog.text
    assert last_state(settings)["step"] == 4
    assert (settings.out / "adapter.safetensors").is_file()


def test_weights_that_cannot_be_written_at_the_end_are_an_error(settings, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(train_results, "save_adapter", full)
    with caplog.at_level(logging.WARNING), pytest.raises(TrainingError, match="make room and run the same command"):
        train(dataclasses.replace(settings, steps=2, eval_every=1))
    assert "could not be written" in caplog.text and "training goes on" in caplog.text


def test_a_gpu_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendMissing, match="--device cpu"):
        chosen_device("cuda")


# ---- schedule and weights of others ----


def test_the_learning_rate_warms_up_and_then_follows_its_schedule(settings):
    assert [learning_rate_at(step, settings, 3, 10) for step in (0, 2, 3, 9)] == [1e-4, 1e-4, 1e-3, 1e-3]
    cosine = dataclasses.replace(settings, schedule="cosine")
    rates = [learning_rate_at(step, cosine, 2, 10) for step in range(2, 10)]
    assert rates[0] == 1e-3 and rates[4] == pytest.approx(5e-4) and rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_the_official_file_gives_the_same_features(settings, tmp_path):
    path = tmp_path / "official.pth"
    train(dataclasses.replace(settings, steps=2, eval_every=2, export_official=path))
    backbone = load_backbone("tiny")
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours, theirs = (load_student(backbone, file)(image) for file in (settings.out / "adapter.safetensors", path))
    assert torch.equal(ours, theirs)


def test_every_key_of_the_authors_file_is_written_at_their_width(shared):
    from brixel_edge.network.official_adapter import official_state
    from brixel_edge.network.student import build_refiner

    authors = torch.load(shared / "golden" / "official_vit_tiny" / "adapter.pth", weights_only=True)
    written = official_state(build_refiner(192, 4).state_dict())
    assert {key: value.shape for key, value in written.items()} == {key: value.shape for key, value in authors.items()}


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
    assert student(image).shape == (1, 32, 8, 8) and np.isfinite(record["best"]["student"]["total"])


# ---- longer ones ----


@pytest.mark.slow
def test_torchrun_gives_what_one_process_gives(settings, uninterrupted, tmp_path):
    runner = tmp_path / "runner.py"
    runner.write_text(f"{PRELUDE}\nimport sys\nfrom brixel_edge.commands.train import main\nsys.exit(main())\n")
    arguments = [
        "--data", settings.data[0], "--val", settings.val[0], "--out", str(settings.out), "--backbone", "tiny",
        "--backbone-weights", "random", "--size", "32", "--batch", "4", "--steps", str(STEPS), "--eval-every", "4",
        "--save-every", "2", "--device", "cpu", "--workers", "2", "--teacher-precision", "fp32", "--json",
    ]  # fmt: skip
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(runner)]
    done = subprocess.run([*launcher, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["processes"] == 2  # one record, not two
    for one, two in zip(*(read_curve(run.out / "losses.csv") for run in (uninterrupted[0], settings)), strict=True):
        assert two["total"] == pytest.approx(one["total"], rel=1e-3)


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
    best = record["best"]
    print(json.dumps(record["evaluations"], indent=1))
    assert best["photographs"] == len(held_out)
    assert best["student"]["l1"] < 0.97 * best["baseline"]["l1"]
    assert best["student"]["edge"] < 0.97 * best["baseline"]["edge"]
    assert best["student"]["cosine"] > best["baseline"]["cosine"]
