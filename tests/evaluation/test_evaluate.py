"""A whole evaluation on small data, in one process and in two; what it writes."""

import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from labelled_folders import camvid, davis, gray
from PIL import Image

from brixel_edge.commands.eval import main
from brixel_edge.errors import DataError
from brixel_edge.evaluation.evaluate import evaluate, probe_path
from brixel_edge.evaluation.plot import lines_of
from brixel_edge.evaluation.protocol import Protocol, prepared, protocol_of
from brixel_edge.evaluation.results import PLOT_NAME, RECORD_NAME, TABLE_NAME, table, write_results
from brixel_edge.evaluation.samples import Sample
from brixel_edge.evaluation.settings import EvalSettings, InputSize
from brixel_edge.evaluation.tasks import open_labelled, task_of
from brixel_edge.model.backbones import BACKBONES, BackboneSpec

TINY = dict(
    timm_name="vit_small_patch16_dinov3", patch_px=16, width=32, depth=2, tap_layers=(0, 1), licence="Apache-2.0",
    overrides=(("embed_dim", 32), ("depth", 2), ("num_heads", 2)),
)  # fmt: skip
PRELUDE = f"""
import os, sys, torch
from brixel_edge.model.backbones import BACKBONES, BackboneSpec
BACKBONES["tiny"] = BackboneSpec(**{TINY!r})
torch.set_num_threads(1)
from brixel_edge.commands.eval import main
def evaluated(arguments, port):
    os.environ["MASTER_PORT"] = str(port)  # a port a run: the next one may begin while the one before still ends
    return main(arguments)
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", BackboneSpec(**TINY))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bright_and_dark(tmp_path_factory):
    """CamVid's folders: a bright half (class 0) and a dark one (class 3), divided somewhere; a rim without labels."""
    root = tmp_path_factory.mktemp("camvid")
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("test", 5)):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for number in range(count):
            label = np.full((60, 80), 3, np.uint8)
            label[:, : 20 + 8 * number] = 0
            noise = rng.normal(0, 12, (60, 80, 3))
            frame = np.clip(np.where(label[..., None] == 0, 200, 50) + noise, 0, 255).astype(np.uint8)
            label[:3] = 11
            cv2.imwrite(str(root / split / "images" / f"{number}.png"), frame)
            cv2.imwrite(str(root / split / "labels" / f"{number}.png"), label)
    return root


@pytest.fixture
def settings(bright_and_dark):
    return EvalSettings(
        task="camvid",
        data=bright_and_dark,
        model="tiny",
        features=("baseline", "logits", "native"),
        size=InputSize(short=48, step=16),
        seeds=2,
        epochs=12,
        batch=3,
        device="cpu",
    )


def test_halves_of_pictures_are_told_apart_and_the_finer_map_does_better(settings, tmp_path):
    record = evaluate(dataclasses.replace(settings, out=tmp_path, cache=tmp_path / "cache"))
    rows = {row["features"]: row for row in record["rows"]}
    assert list(rows) == ["baseline", "logits", "native"]
    assert rows["baseline"]["input"] == [48, 64] and rows["native"]["input"] == [192, 256]
    assert rows["baseline"]["grid"] == rows["native"]["grid"] == [12, 16] and rows["logits"]["grid"] == [3, 4]
    scores = {name: row["scores"]["miou"] for name, row in rows.items()}
    assert 0.6 < scores["baseline"]["mean"] < scores["native"]["mean"] > 0.9
    assert len(scores["native"]["values"]) == 2 and rows["native"]["per_class"]["building"] is None
    assert set(rows["native"]["per_class"]) >= {"sky", "road"} and rows["native"]["gflop"] > rows["logits"]["gflop"]
    assert record["pictures"] == {"train": 7, "test": 5} and record["protocol"]["points"] == 8192
    # From the cache, the same.
    again = evaluate(dataclasses.replace(settings, cache=tmp_path / "cache"))
    assert [row["scores"] for row in again["rows"]] == [row["scores"] for row in record["rows"]]
    assert probe_path(tmp_path, "native").is_file()


def test_results_are_written_for_machines_people_and_the_eye(settings, tmp_path):
    record = evaluate(dataclasses.replace(settings, features=("logits",), epochs=1))
    write_results(tmp_path / "out", record)
    assert json.loads((tmp_path / "out" / RECORD_NAME).read_text()) == record
    text = (tmp_path / "out" / TABLE_NAME).read_text()
    mean = 100 * record["rows"][0]["scores"]["miou"]["mean"]
    assert text == table(record) + "\n" and f"{mean:.1f} ± " in text and "| sky |" in text
    with Image.open(tmp_path / "out" / PLOT_NAME) as image:
        assert image.size[0] > 800 and np.asarray(image.convert("L")).std() > 5


def test_names_of_rows_that_cost_and_score_alike_are_on_lines_of_their_own():
    places = [(0.53, 26.6), (0.53, 26.6), (17.0, 35.2), (0.53, 31.0), (0.54, 26.7)]
    assert lines_of(places) == [0, 1, 0, 0, 2]
    assert lines_of([]) == [] and lines_of([(1.0, 3.0)]) == [0]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def joined(runs, world):
    """Standard output of each of several processes that together evaluate one after another."""
    ports = [free_port() for _ in runs]
    started = []
    for rank in range(world):
        names = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, MASTER_ADDR="127.0.0.1")
        environment = os.environ | {key: str(value) for key, value in names.items()}
        command = [
            sys.executable,
            "-c",
            PRELUDE + f"sys.exit(max(evaluated(run, port) for run, port in zip({runs!r}, {ports!r})))",
        ]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    done = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0] * world, done
    return [out for out, _ in done]


def test_two_processes_give_what_one_gives(settings, rooms, tmp_path):
    folders = {"camvid": settings.data, "7scenes-depth": rooms}
    chosen = dataclasses.replace(settings, features=("logits",), epochs=4)
    alone = {task: evaluate(dataclasses.replace(chosen, task=task, data=folder)) for task, folder in folders.items()}
    common = [
        "--model", "tiny", "--features", "logits", "--size", "48x64", "--seeds", "2", "--epochs", "4", "--batch", "3",
        "--device", "cpu", "--json",
    ]  # fmt: skip
    runs = [[task, "--data", str(folder), "--out", str(tmp_path / task), *common] for task, folder in folders.items()]
    first, second = joined(runs, 2)
    assert second == ""
    for task, line in zip(folders, first.splitlines(), strict=True):
        together = json.loads(line)
        assert together["processes"] == 2 and alone[task]["processes"] == 1
        # Gradients are summed in float64, so that not even the last digit knows how many processes there were.
        assert together["rows"][0]["scores"] == alone[task]["rows"][0]["scores"]
        assert json.loads((tmp_path / task / RECORD_NAME).read_text()) == together


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Flat 7-Scenes frames: a wall, the nearer the brighter."""
    root = tmp_path_factory.mktemp("rooms")
    for number in range(8):
        depth = np.full((60, 80), 1000 + 300 * ((3 * number) % 8), np.uint16)
        depth[:, 40:] += 400
        depth[:5] = 0
        frame = np.repeat((255 - depth / 16).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        cv2.imwrite(str(root / f"frame-{number:06d}.color.png"), frame)
        cv2.imwrite(str(root / f"frame-{number:06d}.depth.png"), depth)
    return root


@pytest.mark.parametrize("probe", ["auto", "linear"])
def test_depth_and_normals_of_a_small_room(settings, rooms, probe):
    chosen = dataclasses.replace(settings, data=rooms, features=("native",), seeds=1, epochs=60, probe=probe)
    record = evaluate(dataclasses.replace(chosen, task="7scenes-depth"))
    scores = {name: entry["mean"] for name, entry in record["rows"][0]["scores"].items()}
    assert record["main"] == "rmse_m" and not record["is_higher_better"]
    assert record["probe"] == ("light" if probe == "auto" else "linear")
    assert scores["abs_rel"] < 0.3 and scores["aligned_rmse_m"] < 0.5 and scores["delta1"] > 0.5
    walls = evaluate(dataclasses.replace(chosen, task="7scenes-normals", epochs=10))
    angles = {name: entry["mean"] for name, entry in walls["rows"][0]["scores"].items()}
    assert angles["mean_deg"] < 5 and angles["under_11.25"] > 0.95  # walls that all face the camera


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    root = tmp_path_factory.mktemp("davis")
    davis(root)
    return root


def test_masks_in_videos_are_scored_without_a_probe(settings, video):
    chosen = dataclasses.replace(settings, task="davis", data=video, features=("logits", "native"))
    record = evaluate(chosen)
    scores = {row["features"]: row["scores"]["j_and_f"]["mean"] for row in record["rows"]}
    assert record["probe"] == "none" and record["pictures"]["test"] == 2 and record["seeds"] == 1
    assert scores["native"] > scores["logits"] and scores["native"] > 0.5


def test_the_authors_protocol_scores_a_smaller_task(settings):
    ours, theirs = (
        protocol_of(dataclasses.replace(settings, protocol=name, epochs=None, batch=None), task_of("ade20k"))
        for name in ("labels", "authors")
    )
    assert (theirs.epochs, theirs.batch, theirs.learning_rate) == (40, 32, 1e-3)
    assert not theirs.standardises and not theirs.is_annealed and theirs.has_faults and theirs.crops_square
    sample = open_labelled("camvid", settings.data).test[0]
    view = InputSize(short=48, step=16)
    whole, small = prepared(sample, view, ours), prepared(sample, view, theirs)
    assert whole.label.shape == (60, 80) and whole.view == (48, 64)
    assert small.frame.shape == (60, 60, 3) and small.view == small.label.shape == (48, 48)
    square = Image.fromarray(np.ascontiguousarray(sample.read_label()[:, 10:70]))
    assert np.array_equal(small.label, np.asarray(square.resize((48, 48), Image.Resampling.NEAREST)))
    record = evaluate(dataclasses.replace(settings, protocol="authors", features=("logits",), seeds=1, epochs=2))
    assert record["rows"][0]["scores"]["miou"]["mean"] < 0.3  # 9 of 11 classes occur nowhere and count as failures


def test_features_that_would_not_fit_are_refused_before_they_are_computed(settings):
    with pytest.raises(DataError, match="--cache"):
        evaluate(dataclasses.replace(settings, cache_budget=1000))


def test_a_label_of_another_size_names_the_picture():
    sample = Sample(
        name="a/b", read_frame=lambda: np.zeros((4, 6, 3), np.uint8), read_label=lambda: np.zeros((6, 4), np.uint8)
    )
    with pytest.raises(DataError, match=r"a/b.*\(4, 6\)"):
        prepared(sample, InputSize(), Protocol(name="p"))


@pytest.mark.parametrize(("split", "message"), [("train", "training"), ("test", "test")])
def test_a_split_without_one_labelled_pixel_is_refused(settings, tmp_path, split, message):
    camvid(tmp_path)
    gray(tmp_path / split / "labels" / "0001TP_006690.png", np.full((12, 16), 11, np.uint8))
    with pytest.raises(DataError, match=f"not one pixel of the {message} pictures is labelled"):
        evaluate(dataclasses.replace(settings, data=tmp_path, features=("logits",), epochs=1, seeds=1))


def test_one_class_alone_is_scored_by_itself(settings, tmp_path):
    camvid(tmp_path)
    for split in ("train", "test"):
        gray(tmp_path / split / "labels" / "0001TP_006690.png", np.full((12, 16), 4, np.uint8))
    record = evaluate(dataclasses.replace(settings, data=tmp_path, features=("logits",), seeds=1))
    (row,) = record["rows"]
    assert row["scores"]["miou"]["mean"] == 1 and {c for c, v in row["per_class"].items() if v is not None} == {
        "pavement"
    }


def test_a_full_disk_is_said_in_one_line_and_leaves_no_half_entry(settings, tmp_path, monkeypatch, capsys):
    def save(stream, values):
        stream.write(bytes(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", save)
    arguments = ["camvid", "--data", str(settings.data), "--model", "tiny", "--features", "logits", "--size", "48x64",
                 "--device", "cpu", "--cache", str(tmp_path / "cache")]  # fmt: skip
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("brixel-eval: error: the disk is full; free some space")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_limit_takes_pictures_evenly(settings):
    data = open_labelled("camvid", settings.data).limited(3)
    assert [sample.name for sample in data.train] == ["train/0", "train/2", "train/4"]
