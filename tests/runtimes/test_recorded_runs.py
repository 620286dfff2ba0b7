"""Recordings of features of brixel-run: what is in them, and their replay to the bit."""

from __future__ import annotations

import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tiny_model
from recorded_maps import same

import brixel_edge
from brixel_edge.commands.run import main
from brixel_edge.errors import BundleError, SpecError
from brixel_edge.runtimes import model as model_module
from brixel_edge.runtimes.recordings.recording import load_recording

pytest.importorskip("mcap")


@pytest.fixture
def pictures(tmp_path, photographs):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), np.roll(photographs[1][:96, :160], 7 * number, axis=1))
    return folder


def record(graph, pictures, path, *more):
    command = [str(graph), "--source", str(pictures), "--headless", "--quiet", "--backend", "ort", "--save", str(path)]
    return main([*command, *more])


def test_a_run_records_what_the_model_gives_and_replays_it(graph, pictures, tmp_path, capsys):
    path = tmp_path / "features.mcap"
    assert record(graph, pictures, path) == 0
    assert f"saved        {path} (4 frames)" in capsys.readouterr().out
    recorded = list(brixel_edge.load_recording(path))
    with brixel_edge.open_model(graph, backend="ort") as model:
        for number, features in enumerate(recorded):
            assert (model(cv2.imread(str(pictures / f"{number}.png"))).values == features.values).all()
    assert [features.source for features in recorded] == [str(pictures)] * 4
    stream = brixel_edge.stream(graph, source=path, backend="ort")
    replayed = list(stream)
    assert len(replayed) == 4
    for pair in zip(replayed, recorded, strict=True):
        assert same(*pair)
        assert (pair[0].frame_bgr == pair[1].frame_bgr).all()
    assert stream.health()["sources"][0]["policy"] == "every"


def test_a_replay_makes_pictures_and_recordings_as_any_source_does(graph, pictures, tmp_path, capsys):
    first, second = tmp_path / "first.mcap", tmp_path / "second.mcap"
    assert record(graph, pictures, first) == 0
    assert record(graph, first, second) == 0
    assert record(graph, first, tmp_path / "panels") == 0
    assert all(same(*pair) for pair in zip(load_recording(first), load_recording(second), strict=True))
    assert len(list((tmp_path / "panels").glob("*.png"))) == 4
    assert "(recording of tiny.onnx, 160x96)" in capsys.readouterr().out


def test_the_engine_is_not_asked_in_a_replay(graph, pictures, tmp_path, monkeypatch):
    path = tmp_path / "f.mcap"
    assert record(graph, pictures, path) == 0
    asked = []
    features = model_module.Model.features
    monkeypatch.setattr(
        model_module.Model, "features", lambda *given, **named: asked.append(1) or features(*given, **named)
    )
    assert len(list(brixel_edge.stream(graph, source=path, backend="ort"))) == 4
    assert len(asked) == 1  # when it was warmed up


def test_prototypes_are_found_in_what_was_recorded(graph, pictures, tmp_path):
    """Maps of a recording know their feature space, so vectors of the live model may be compared with them."""
    path = tmp_path / "f.mcap"
    assert record(graph, pictures, path) == 0
    with brixel_edge.open_model(graph, backend="ort") as model:
        things = brixel_edge.Prototypes()
        things.add("cat", model(cv2.imread(str(pictures / "0.png"))), x=40, y=40)
        for features in load_recording(path):
            assert features.feature_space.is_that_of(model.feature_space)
            assert things.find(features)["cat"].score > 0.9


def test_another_model_s_features_are_refused(graph, pictures, tmp_path, capsys):
    path = tmp_path / "f.mcap"
    assert record(graph, pictures, path) == 0
    other = tiny_model.save(tmp_path / "other.onnx", tiny_model.spec(height=64))
    capsys.readouterr()
    assert main([str(other), "--source", str(path), "--headless", "--quiet", "--backend", "ort"]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"{path} was recorded with tiny.onnx, whose spec (" in line
    assert "replay it with the model that it was recorded with" in line
    with pytest.raises(BundleError, match=r"was recorded with tiny\.onnx"):
        next(brixel_edge.stream(other, source=path, backend="ort"))
    trained_again = tiny_model.save(tmp_path / "again.onnx", bias=5.0)
    with pytest.raises(BundleError, match=r"tiny\.onnx \(4 channels, .*whose weights are not those of again\.onnx"):
        next(brixel_edge.stream(trained_again, source=path, backend="ort"))
    renamed = tiny_model.save(tmp_path / "renamed.onnx")
    assert len(list(brixel_edge.stream(renamed, source=path, backend="ort"))) == 4


def test_several_sources_are_told_apart(graph, tmp_path):
    clock, pattern = "test:clock?width=96&height=64", "test:pattern?width=64&height=64"
    path = tmp_path / "f.mcap"
    command = [str(graph), "--source", clock, "--source", pattern, "--headless", "--quiet", "--save", str(path)]
    assert main([*command, "--frames", "12", "--backend", "ort"]) == 0
    recorded = list(load_recording(path))
    assert {features.source for features in recorded} == {clock, pattern}
    for features in recorded:
        assert features.frame_bgr.shape[:2] == features.frame_size
        assert features.frame_size == ((64, 96) if features.source == clock else (64, 64))
        assert features.t_stream_s == pytest.approx(features.frame_index / 30)


def test_a_killed_brixel_run_leaves_its_frames(graph, tmp_path):
    command = [sys.executable, "-m", "brixel_edge.commands.run", str(graph), "--backend", "ort", "--headless"]
    source = "test:pattern?width=320&height=240&fps=100"
    process = subprocess.Popen(
        [*command, "--quiet", "--source", source, "--save", "f.mcap"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        deadline_s = time.monotonic() + 60
        while not any(path.stat().st_size > 300_000 for path in tmp_path.glob(".f.*.mcap")):
            assert time.monotonic() < deadline_s and process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "f.mcap").exists()
    [left] = tmp_path.glob(".f.*.mcap")
    replayed = list(brixel_edge.stream(graph, source=left, backend="ort"))
    assert len(replayed) > 5
    assert all(features.grid == (8, 12) for features in replayed)


def test_npz_files_hold_features_times_and_the_spec(graph, pictures, tmp_path, capsys):
    folder = tmp_path / "maps"
    assert record(graph, pictures, folder, "--save-features", "npz") == 0
    assert f"{folder}/ (4 npz files)" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == [f"00000{number}_{number}.npz" for number in range(4)]
    with brixel_edge.open_model(graph, backend="ort") as model:
        for number in range(4):
            frame = cv2.imread(str(pictures / f"{number}.png"))
            features = model(frame)
            with np.load(folder / f"00000{number}_{number}.npz") as kept:
                assert (kept["values"] == features.values).all()
                assert (kept["sequence"], kept["is_after_gap"], str(kept["source"])) == (number, False, str(pictures))
                assert abs(kept["t_utc_s"] - time.time()) < 600
                assert kept["t_capture_s"] < time.monotonic()
                assert np.isnan(kept["t_stream_s"])
                assert str(kept["spec_digest"]) == model.spec.digest
                assert (tuple(kept["stride_px"]), tuple(kept["frame_size"])) == (features.stride_px, frame.shape[:2])
                assert cv2.PSNR(cv2.imdecode(kept["frame_jpeg"], cv2.IMREAD_COLOR), frame) > 25


def test_npz_in_half_precision(graph, pictures, tmp_path):
    assert record(graph, pictures, tmp_path / "maps", "--save-features", "npz", "--save-precision", "fp16") == 0
    with np.load(tmp_path / "maps" / "000000_0.npz") as kept:
        assert kept["values"].dtype == np.float16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save-features", "npz"], "--save-features npz goes to a folder, and no --save is given; give --save DIR"),
        (["--save", "f.mcap", "--save-features", "npz"], "goes to a folder, not to f.mcap; give --save DIR"),
        (["--save-precision", "fp16"], "--save-precision fp16 is for features; give --save features.mcap"),
        (["--save", "out.mp4", "--save-precision", "fp16"], "--save-precision fp16 is for features"),
        (["--save", "panels", "--save-precision", "fp16"], "--save-precision fp16 is for features"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--headless", "--frames", "1"]) == SpecError.exit_code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_recording_is_not_overwritten_without_force(graph, pictures, tmp_path):
    path = tmp_path / "f.mcap"
    path.write_text("mine")
    assert record(graph, pictures, path) == 2
    assert path.read_text() == "mine"
    assert record(graph, pictures, path, "--force") == 0
    assert len(list(load_recording(path))) == 4
