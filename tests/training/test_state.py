"""Going on after a crash: to the same bits, past damaged checkpoints, never on another run."""

import dataclasses
import json
import logging
import os
import random
import signal
import time

import pytest
from tiny_training import STEPS, cut_short, last_state, same_bits, weights, write_shards

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.training import checkpoints
from brixel_edge.training.loop import train
from brixel_edge.training.results import read_curve
from brixel_edge.training.views import ViewSettings


def wait_until(condition, process, timeout_s=120.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert process.is_alive() and time.monotonic() < end_s, "the run ended before it could be killed"
        time.sleep(0.002)


def test_a_killed_run_goes_on_to_the_same_bits(started, settings, uninterrupted):
    killed_at = random.SystemRandom().randrange(2, STEPS - 1)
    process = started(settings)
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
    assert json.loads((settings.out / "train.json").read_text())["evaluations"] == record.to_json()["evaluations"]


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
