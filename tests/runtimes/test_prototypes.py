"""Prototypes: what is pointed at is found again; what is not is not; files are bound to their model."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile

import cv2
import numpy as np
import pytest
import tiny_bundle
import tiny_model
from scenes import CUP, CUP_AT, PLATE, SKY, SPACE, TABLE, mixed, scene

import brixel_edge
from brixel_edge.errors import BundleError, SpecError
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.runtimes.asking.matches import automatic_threshold
from brixel_edge.runtimes.asking.prototypes import MOST_POINTS, Prototypes


def test_what_was_pointed_at_is_found_elsewhere():
    prototypes = brixel_edge.Prototypes()
    prototypes.add("cup", scene([CUP_AT]), x=30, y=20)
    moved = prototypes.find(scene([(CUP, slice(3, 5), slice(4, 7)), (PLATE, slice(0, 1), slice(0, 2))]))["cup"]
    assert moved.box == (40.0, 30.0, 70.0, 50.0)
    assert moved.score == pytest.approx(1)
    assert moved.point == (44.5, 34.5)  # the first of six equal cells: its centre, as FeatureMap.at counts
    expected = np.zeros((6, 8), bool)
    expected[3:5, 4:7] = True
    assert (moved.mask == expected).all()
    assert moved.similarity == pytest.approx(expected.astype(float))


def test_what_is_not_there_has_a_score_and_no_box():
    prototypes = Prototypes()
    prototypes.add("cup", scene([CUP_AT]), x=30, y=20)
    match = prototypes.find(scene([(mixed(SKY, CUP, 0.3), slice(0, 2), slice(0, 2))]))["cup"]
    assert match.box is None
    assert not match.mask.any()
    assert match.score == pytest.approx(0.3 / np.hypot(0.3, 0.7))


def test_several_prototypes_are_answered_at_once_and_apart():
    prototypes = Prototypes()
    features = scene([CUP_AT, (PLATE, slice(4, 6), slice(0, 2))])
    prototypes.add("cup", features, x=30, y=20)
    prototypes.add("plate", features, x=5, y=45)
    found = prototypes.find(features)
    assert list(found) == ["cup", "plate"]
    assert found["cup"].box == (20.0, 10.0, 50.0, 30.0)
    assert found["plate"].box == (0.0, 40.0, 20.0, 60.0)


def test_a_second_positive_point_widens_and_a_negative_one_takes_away():
    handle = mixed(CUP, TABLE, 0.5)
    false = mixed(CUP, PLATE, 0.3)
    features = scene([CUP_AT, (handle, slice(1, 3), slice(5, 6)), (false, slice(4, 5), slice(0, 3))])
    prototypes = Prototypes()
    prototypes.add("cup", features, x=30, y=20)
    prototypes.set_threshold("cup", 0.85)
    match = prototypes.find(features)["cup"]
    assert match.mask[4, :3].all() and not match.mask[1:3, 5].any()
    prototypes.add("cup", features, x=55, y=20)
    assert prototypes.find(features)["cup"].box == (20.0, 10.0, 60.0, 30.0)
    prototypes.add("cup", features, x=5, y=45, is_negative=True)
    match = prototypes.find(features)["cup"]
    assert not match.mask[4, :3].any()
    assert match.mask[1:3, 2:6].all()
    # Lower by as much as the negative point, to which these cells are equal, is nearer.
    near = float(CUP @ false / 2 / np.linalg.norm(false))
    assert match.similarity[4, 0] == pytest.approx(near - (1 - near))


def test_the_best_cell_is_none_that_a_negative_point_claims():
    features = scene([CUP_AT, (mixed(CUP, PLATE, 0.1), slice(4, 5), slice(0, 3))])
    prototypes = Prototypes()
    prototypes.add("cup", features, x=30, y=20)
    prototypes.add("cup", features, x=5, y=45, is_negative=True)
    alone = scene(
        [(mixed(CUP, PLATE, 0.1), slice(4, 5), slice(0, 3)), (mixed(CUP, SKY, 0.5), slice(0, 1), slice(7, 8))]
    )
    assert prototypes.find(alone)["cup"].point == (74.5, 4.5)


def test_the_box_is_that_of_the_part_around_the_best_cell():
    features = scene([CUP_AT, (mixed(CUP, SKY, 0.1), slice(4, 6), slice(5, 8))])
    prototypes = Prototypes()
    prototypes.add("cup", features, x=30, y=20)
    prototypes.set_threshold("cup", 0.9)
    match = prototypes.find(features)["cup"]
    assert match.mask[4:, 5:].all()
    assert match.box == (20.0, 10.0, 50.0, 30.0)


def test_boxes_and_points_are_the_frames_own_whatever_the_fit():
    cropped = scene([CUP_AT], offset_px=(0.0, 25.0), frame_size=(60, 130))
    padded = scene([(CUP, slice(0, 2), slice(0, 2))], offset_px=(-15.0, 0.0), frame_size=(30, 80))
    prototypes = Prototypes()
    prototypes.add("cup", cropped, x=55, y=20)
    assert prototypes.find(cropped)["cup"].box == (45.0, 10.0, 75.0, 30.0)
    match = prototypes.find(padded)["cup"]
    assert match.box == (0.0, 0.0, 20.0, 5.0)
    assert match.point == (4.5, 0.0)
    assert padded.cell(x=match.point[0], y=match.point[1]) is not None


def test_the_automatic_threshold_parts_three_classes_at_the_upper_cut():
    rng = np.random.default_rng(0)
    for share in (0.01, 0.1, 0.5):
        count = int(4096 * share)
        parts = [(0.95, count), (0.6, 1000), (0.2, 4096 - 1000 - count)]
        cells = np.concatenate([rng.normal(mean, 0.02, number) for mean, number in parts]).clip(-1, 1)
        threshold = automatic_threshold(cells.astype(np.float32).reshape(64, 64))
        assert 0.66 < threshold < 0.9, share


def test_the_automatic_threshold_is_the_best_of_all_pairs_of_cuts():
    """By the definition: least squares within three classes, over every pair of cuts of a short list of values."""
    values = np.array([0.0, 0.02, 0.05, 0.4, 0.45, 0.5, 0.9, 0.95, 1.0] * 8, np.float32).reshape(8, 9)
    levels = np.sort(np.unique(values))
    best = min(
        (sum(((part := values[(values >= a) & (values < b)]) - part.mean()) @ (part - part.mean())
             for a, b in ((-1, low), (low, high), (high, 2))), high)
        for low in levels[1:] for high in levels[1:] if low < high
    )  # fmt: skip
    assert 0.5 < automatic_threshold(values) <= best[1]


def test_a_map_that_is_everywhere_the_same_is_all_thing():
    prototypes = Prototypes()
    prototypes.add("sky", scene([]), x=5, y=5)
    assert prototypes.find(scene([]))["sky"].mask.all()


def test_half_precision_and_channels_apart_are_taken():
    features = scene([CUP_AT])
    apart = np.ascontiguousarray(features.values.transpose(2, 0, 1)).transpose(1, 2, 0)
    prototypes = Prototypes()
    prototypes.add("cup", features, x=30, y=20)
    for values in (apart, features.values.astype(np.float16)):
        match = prototypes.find(dataclasses.replace(features, values=values))["cup"]
        assert match.box == (20.0, 10.0, 50.0, 30.0)


def test_what_cannot_be_pointed_at_is_refused():
    features = scene([(np.zeros(4, np.float32), slice(0, 1), slice(0, 1))])
    prototypes = Prototypes()
    with pytest.raises(SpecError, match="pixel x=99, y=0 has no features; x must be 0 to 79"):
        prototypes.add("cup", features, x=99, y=0)
    with pytest.raises(SpecError, match="x=5, y=5 has no length; point elsewhere"):
        prototypes.add("cup", features, x=5, y=5)
    with pytest.raises(SpecError, match="'cup' has no positive point yet; say first where it is"):
        prototypes.add("cup", features, x=50, y=50, is_negative=True)
    for name in ("", "  ", "a\nb", "x" * 33):
        with pytest.raises(SpecError, match="is not 1 to 32 printable characters"):
            prototypes.add(name, features, x=50, y=50)
    with pytest.raises(SpecError, match="does not say which model made it; take one from open_model or stream"):
        prototypes.add("cup", dataclasses.replace(features, feature_space=None), x=50, y=50)
    assert len(prototypes) == 0
    assert prototypes.find(features) == {}


def test_points_are_bounded():
    features = scene([])
    prototypes = Prototypes()
    for _ in range(MOST_POINTS):
        prototypes.add("sky", features, x=5, y=5)
    with pytest.raises(SpecError, match=f"there are {MOST_POINTS} points already; forget some first"):
        prototypes.add("sky", features, x=5, y=5)


def test_prototypes_are_named_listed_and_forgotten():
    prototypes = Prototypes()
    prototypes.add("cup", scene([CUP_AT]), x=30, y=20)
    assert prototypes.names == ("cup",) and "cup" in prototypes and len(prototypes) == 1
    with pytest.raises(SpecError, match="no prototype 'mug'; there are: cup"):
        prototypes["mug"]
    with pytest.raises(SpecError, match="threshold 2 is no cosine; give one from -1 to 1"):
        prototypes.set_threshold("cup", 2)
    prototypes.remove("cup")
    with pytest.raises(SpecError, match="no prototype 'cup'; there are: none"):
        prototypes.remove("cup")


def test_a_map_of_another_model_is_refused_in_one_line():
    prototypes = Prototypes()
    prototypes.add("cup", scene([CUP_AT]), x=30, y=20)
    other = scene([], space=FeatureSpace(model="n", dim=4, digests=("graph:2",)))
    for ask in (lambda: prototypes.find(other), lambda: prototypes.add("cup", other, x=5, y=5)):
        with pytest.raises(
            SpecError, match=r"made with m \(4 channels, 1\), this model is n \(4 channels, 2\)"
        ) as raised:
            ask()
        assert "\n" not in str(raised.value)


def test_a_file_gives_back_what_was_saved(tmp_path):
    features = scene([CUP_AT, (PLATE, slice(4, 6), slice(0, 2))])
    prototypes = Prototypes()
    prototypes.add("tasse à café", features, x=30, y=20)
    prototypes.add("tasse à café", features, x=5, y=45, is_negative=True)
    prototypes.add("plate", features, x=5, y=45)
    prototypes.set_threshold("plate", 0.5)
    path = tmp_path / "kitchen.prototypes"
    prototypes.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_size < 3000
    loaded = Prototypes.load(path)
    assert loaded.names == prototypes.names
    assert loaded.feature_space == SPACE
    assert [loaded[name].threshold for name in loaded.names] == [prototypes[name].threshold for name in loaded.names]
    before, after = prototypes.find(features), loaded.find(features)
    for name in loaded.names:
        assert (before[name].similarity == after[name].similarity).all()
        assert before[name].box == after[name].box
    loaded.save(tmp_path / "again.prototypes")
    assert (tmp_path / "again.prototypes").read_bytes() == path.read_bytes()


def test_a_file_is_read_and_written_by_engines_of_one_model_alone(tmp_path, photographs):
    root = tiny_bundle.save(tmp_path / "m.brixel", ("graph.fp32.onnx", "graph.int8.ort.onnx"))
    frame = cv2.resize(photographs[0], (96, 64))
    path = tmp_path / "cup.prototypes"
    with brixel_edge.open_model(root, precision="fp32") as model:
        prototypes = Prototypes()
        prototypes.add("cup", model(frame), x=30, y=20)
        prototypes.save(path)
    with brixel_edge.open_model(root, precision="int8") as model:
        match = Prototypes.load(path).find(model(frame))["cup"]
        assert match.score == pytest.approx(1, abs=1e-4)
    other = tiny_model.save(tmp_path / "other.onnx", bias=7.0)
    with (
        brixel_edge.open_model(other) as model,
        pytest.raises(SpecError, match=r"made with m.brixel .*, this model is other.onnx"),
    ):
        Prototypes.load(path).find(model(frame))


def test_a_map_of_a_stream_can_be_pointed_into(graph, photograph_paths):
    prototypes = Prototypes()
    for fm in brixel_edge.stream(graph, source=str(photograph_paths[0])):
        prototypes.add("face", fm, x=220, y=110)
        assert prototypes.find(fm)["face"].score == pytest.approx(1, abs=1e-5)


def test_nothing_and_wrong_names_are_not_saved(tmp_path):
    prototypes = Prototypes()
    with pytest.raises(SpecError, match=r"there is no prototype to save in .*; point at something first"):
        prototypes.save(tmp_path / "a.prototypes")
    prototypes.add("cup", scene([CUP_AT]), x=30, y=20)
    with pytest.raises(SpecError, match=r"cup.npz does not end in .prototypes; call it .*cup.prototypes"):
        prototypes.save(tmp_path / "cup.npz")
    with pytest.raises(BundleError, match=r"cannot be written .*; choose another place"):
        prototypes.save(tmp_path / "none" / "cup.prototypes")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(tmp_path):
    prototypes = Prototypes()
    prototypes.add("cup", scene([CUP_AT]), x=30, y=20)
    prototypes.save(tmp_path / "cup.prototypes")
    return tmp_path / "cup.prototypes"


def test_files_that_are_none_are_refused(saved, tmp_path):
    with pytest.raises(BundleError, match=r"no prototypes at .*none.prototypes; save some"):
        Prototypes.load(tmp_path / "none.prototypes")
    content = saved.read_bytes()
    for number, damaged in enumerate([b"", b"hello", content[: len(content) // 2], content[:-30]]):
        path = tmp_path / f"{number}.prototypes"
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=f"{number}.prototypes is not a readable .prototypes file"):
            Prototypes.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "has version 9, this release reads 1; update"),
        ({"prototypes": []}, "is not a readable"),
        ({"prototypes": [{"name": "cup", "positive": 2, "negative": 0, "chosen_threshold": None}]}, "and not float32"),
        ({"prototypes": [{"name": "cup", "positive": 0, "negative": 1, "chosen_threshold": None}]}, "has no point"),
        ({"prototypes": [{"name": "c\n", "positive": 1, "negative": 0, "chosen_threshold": None}]}, "printable"),
        ({"feature_space": {"model": "m", "dim": 5, "digests": []}}, "and not float32"),
        ({"more": 1}, "more is not known"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(saved, change, message):
    with np.load(saved) as arrays:
        parts = dict(arrays)
    record = {**json.loads(parts["head"].tobytes()), **change}
    parts["head"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
    with saved.open("wb") as stream:
        np.savez(stream, **parts)
    with pytest.raises(BundleError, match=message):
        Prototypes.load(saved)


@pytest.mark.parametrize(("name", "value"), [("points", np.nan), ("points", 3.0), ("automatic", np.nan)])
def test_damaged_numbers_are_refused(saved, name, value):
    with np.load(saved) as arrays:
        parts = dict(arrays)
    parts[name] = parts[name].copy()
    parts[name][0] = value
    with saved.open("wb") as stream:
        np.savez(stream, **parts)
    with pytest.raises(BundleError, match=r"is not a readable .prototypes file"):
        Prototypes.load(saved)


def test_a_file_that_asks_for_all_memory_or_too_many_points_is_refused(saved):
    """By hand: a header of ten thousand thousand million numbers, and 300 points."""
    with np.load(saved) as arrays:
        parts = dict(arrays)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }"
    giant = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    for name in ("points", "automatic"):
        with zipfile.ZipFile(saved, "w") as archive:
            for other, array in parts.items():
                content = io.BytesIO()
                np.save(content, array)
                archive.writestr(f"{other}.npy", giant if other == name else content.getvalue())
        with pytest.raises(BundleError, match=r"is not a readable .prototypes file"):
            Prototypes.load(saved)
    head = json.loads(parts["head"].tobytes())
    head["prototypes"] = [{"name": "cup", "positive": 300, "negative": 0, "chosen_threshold": None}]
    points = np.tile(np.eye(1, 4, dtype=np.float32), (300, 1))
    write_parts(saved, head, points, np.ones(300, np.float32))
    with pytest.raises(BundleError, match="it has 300 points, and there may be 1 to 256"):
        Prototypes.load(saved)
    head["prototypes"] = 2 * [{"name": "cup", "positive": 1, "negative": 0, "chosen_threshold": None}]
    write_parts(saved, head, points[:2], np.ones(2, np.float32))
    with pytest.raises(BundleError, match="two prototypes have one name"):
        Prototypes.load(saved)


def write_parts(path, head, points, automatic):
    with path.open("wb") as stream:
        np.savez(stream, head=np.frombuffer(json.dumps(head).encode(), np.uint8), points=points, automatic=automatic)


def test_a_save_that_fails_leaves_the_file_as_it_was(saved, tmp_path, monkeypatch):
    before = saved.read_bytes()
    prototypes = Prototypes.load(saved)
    prototypes.add("plate", scene([(PLATE, slice(4, 6), slice(0, 2))]), x=5, y=45)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("brixel_edge.machine.files.os.fsync", full)
    with pytest.raises(BundleError, match="No space left on device"):
        prototypes.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]
