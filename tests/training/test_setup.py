"""What a run is built from: data, views, devices, the cache, and what is refused before it starts."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import same_bits, weights, write_shards

from brixel_edge.errors import BackendMissing, DataError, SpecError
from brixel_edge.training import step as training_step
from brixel_edge.training.loop import train
from brixel_edge.training.processes import Processes
from brixel_edge.training.setup import chosen_device, run_from_settings
from brixel_edge.training.views import ViewSettings


def test_sizes_crops_and_flips_mix_in_one_run(settings):
    views = ViewSettings(sizes=((32, 32), (32, 64), (64, 32)), crops="random", flips=True, max_upscale=1.7)
    record = train(dataclasses.replace(settings, views=views, batch=2, steps=8, eval_every=8))
    assert record.step == 8 and np.isfinite(record.best.student["total"])


def test_a_size_that_does_not_fit_the_patch_is_refused(settings):
    with pytest.raises(SpecError, match="not a multiple of 32; use 32 or 64"):
        train(dataclasses.replace(settings, views=ViewSettings(sizes=((48, 32),))))


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
    assert record.left_out_while_training == {"truncated or damaged": 1}
    assert record.facts.data.left_out == {"not an image": 1}
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


def test_shards_are_as_good_as_a_folder(settings, folders, tmp_path):
    write_shards(tmp_path, folders / "train", 2)
    record = train(dataclasses.replace(settings, data=(str(tmp_path / "part-{0..1}.tar"),), steps=2, eval_every=2))
    assert record.facts.data.photographs == 11


def test_cached_maps_spare_the_teacher_and_change_nothing(settings, tmp_path, monkeypatch):
    cached = dataclasses.replace(settings, cache=tmp_path / "maps", cache_budget_bytes=2**30, steps=6)
    first = train(cached)

    seen = []
    ordinary = training_step.Distiller.teacher_maps
    monkeypatch.setattr(
        training_step.Distiller, "teacher_maps", lambda self, x: seen.append(len(x)) or ordinary(self, x)
    )
    again = dataclasses.replace(cached, out=tmp_path / "again")
    train(again)
    # 11 photographs in batches of 4: at most those that no batch of the first run had, and the 3 held out.
    assert sum(seen) - 3 <= 11 - len(list((tmp_path / "maps").glob("*/*.npz"))) or sum(seen) == 3
    assert same_bits(weights(again), weights(cached))
    assert first.to_json()["settings"]["cache"] == str(tmp_path / "maps")


def test_a_cache_over_its_budget_is_refused(settings, tmp_path):
    with pytest.raises(DataError, match="--cache-budget"):
        train(dataclasses.replace(settings, cache=tmp_path / "maps", cache_budget_bytes=1000))


def test_a_gpu_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendMissing, match="--device cpu"):
        chosen_device("cuda")


@pytest.mark.parametrize(("batch", "momentum"), [(4, 0.025), (11, 0.1 * 11 / 16)])
def test_running_statistics_of_a_small_batch_forget_more_slowly(settings, batch, momentum):
    run = run_from_settings(dataclasses.replace(settings, batch=batch), Processes(), "cpu")
    norms = [module for module in run.distiller.refiner.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and all(norm.momentum == pytest.approx(momentum) for norm in norms)
