"""Recordings of features: written by brixel-run, read by others and by us, replayed to the bit."""

from __future__ import annotations

import dataclasses
import io
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_model

import brixel_edge
from brixel_edge.commands.run import main
from brixel_edge.errors import BackendMissing, BundleError, SpecError
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes import model as model_module
from brixel_edge.runtimes.recordings import cdr, messages
from brixel_edge.runtimes.recordings.facts import RecordedModel
from brixel_edge.runtimes.recordings.mcap_file import McapFile
from brixel_edge.runtimes.recordings.recording import load_recording
from brixel_edge.runtimes.sources.opening import open_source

pytest.importorskip("mcap")
SPACE = FeatureSpace(model="tiny.onnx", dim=tiny_model.DIM, digests=("graph:0123456789",))
MODEL = RecordedModel(feature_space=SPACE, spec=tiny_model.spec(), engine="tiny.onnx", precision="fp32", backend="ort")


def features_of(number, grid=(8, 12), dim=4, dtype=np.float32, **more):
    generator = np.random.default_rng(number)
    facts = {
        "stride_px": (4.0, 4.25), "offset_px": (-1.5, 0.0), "frame_size": (32, 51), "t_capture_s": 77.0 + number / 3,
        "frame_index": 5 + number, "is_after_gap": number % 2 == 1, "t_utc_s": 1.7e9 + number / 3,
        "t_stream_s": None if number % 2 else number / 7, "source": "camera 0", "feature_space": SPACE,
        "frame_bgr": generator.integers(0, 256, (32, 51, 3), dtype=np.uint8),
    }  # fmt: skip
    return FeatureMap(values=generator.normal(size=(*grid, dim)).astype(dtype), **(facts | more))


def same(one, other, but=("frame_bgr",)):
    """Whether two maps are the same to the bit, in every field."""
    for field in dataclasses.fields(FeatureMap):
        if field.name in but:
            continue
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "values":
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.tobytes() == b.tobytes()
        else:
            assert a == b, field.name
    return True


def write(path, maps, precision=None):
    recorder = McapFile(path, MODEL, precision)
    for features in maps:
        recorder.write(features, None)
    recorder.close()
    return recorder


def ros_messages(path):
    """(topic, decoded message, record) by the libraries of others: mcap's reader and its ROS 2 decoder."""
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        return [(channel.topic, decoded, message) for _, channel, message, decoded in reader.iter_decoded_messages()]


def test_fields_are_aligned_to_their_own_size():
    """Bytes by hand: a flag and seven bytes of padding, an eight-byte number, a text, and so on."""
    fields = [cdr.Field(kind, name, "") for kind, name in (
        ("bool", "a"), ("uint64", "b"), ("string", "c"), ("uint32[2]", "d"), ("uint8[]", "e"), ("float64", "f"),
        (cdr.TIME, "g"),
    )]  # fmt: skip
    values = {"a": True, "b": 3, "c": "xy", "d": (1, 2), "e": b"\x07", "f": 1.0, "g": (-1, 9)}
    message = cdr.message_from_values(fields, values)
    body = bytes([1, *[0] * 7]) + struct.pack("<Q", 3) + struct.pack("<I", 3) + b"xy\0" + b"\0"
    body += struct.pack("<II", 1, 2) + struct.pack("<I", 1) + b"\x07" + b"\0" * 3 + struct.pack("<d", 1.0)
    body += struct.pack("<iI", -1, 9)
    assert message == b"\0\1\0\0" + body
    assert cdr.values_from_message(fields, message) == values
    for end in (0, 3, 5, len(message) - 1):
        with pytest.raises(ValueError, match=r"not a message|cut short"):
            cdr.values_from_message(fields, message[:end])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_what_is_recorded_comes_back_to_the_bit(tmp_path, dtype):
    maps = [features_of(number, dtype=dtype) for number in range(5)]
    maps[2] = dataclasses.replace(maps[2], values=maps[2].values[::-1, :, ::-1])  # a view, as engines give
    recorder = write(tmp_path / "f.mcap", maps)
    assert recorder.description == f"{tmp_path / 'f.mcap'} (5 frames)"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.mcap"]
    recording = load_recording(tmp_path / "f.mcap")
    assert recording.model == MODEL
    for _ in range(2):  # as often as you like
        read = list(recording)
        assert len(read) == 5
        assert all(same(*pair) for pair in zip(read, maps, strict=True))
    assert read[0].values.flags.writeable
    for got, given in zip(read, maps, strict=True):
        assert got.frame_bgr.shape == given.frame_bgr.shape


def test_frames_are_jpegs_that_look_like_them(tmp_path, photographs):
    frame = np.ascontiguousarray(photographs[1])
    write(tmp_path / "f.mcap", [features_of(0, frame_bgr=frame, frame_size=frame.shape[:2])])
    [read] = load_recording(tmp_path / "f.mcap")
    assert cv2.PSNR(read.frame_bgr, frame) > 35


def test_foxglove_and_ros_find_their_messages(tmp_path):
    pytest.importorskip("mcap_ros2")
    maps = [features_of(0), features_of(1, source="camera 1"), features_of(2)]
    write(tmp_path / "f.mcap", maps)
    found = ros_messages(tmp_path / "f.mcap")
    assert [topic for topic, *_ in found] == ["/image", "/features", "/image_2", "/features_2", "/image", "/features"]
    for (_, picture, record), (_, features, _), given in zip(found[::2], found[1::2], maps, strict=True):
        assert (record.log_time, record.sequence) == (round(given.t_utc_s * 1e9), given.frame_index)
        assert picture.timestamp.sec * 10**9 + picture.timestamp.nanosec == record.log_time
        assert (picture.format, picture.frame_id) == ("jpeg", given.source)
        shown = cv2.imdecode(np.frombuffer(bytes(picture.data), np.uint8), cv2.IMREAD_COLOR)
        assert shown.shape == (32, 51, 3)
        assert (features.sequence, features.source, features.dtype) == (given.frame_index, given.source, "fp32")
        assert (features.is_after_gap, features.t_capture_s) == (given.is_after_gap, given.t_capture_s)
        assert tuple(features.frame_size) == (32, 51)
        assert (tuple(features.stride_px), tuple(features.offset_px)) == ((4.0, 4.25), (-1.5, 0.0))
        values = np.frombuffer(bytes(features.data), "<f4").reshape(features.shape)
        assert (values == given.values).all()
        assert features.spec_digest == tiny_model.spec().digest


def test_the_schemas_have_the_names_that_foxglove_looks_for(tmp_path):
    from mcap.reader import make_reader

    write(tmp_path / "f.mcap", [features_of(0)])
    with (tmp_path / "f.mcap").open("rb") as stream:
        reader = make_reader(stream)
        summary = reader.get_summary()
        header = reader.get_header()
        [metadata] = reader.iter_metadata()
    assert header.profile == "ros2"
    assert {schema.name: schema.encoding for schema in summary.schemas.values()} == {
        "foxglove_msgs/msg/CompressedImage": "ros2msg", "brixel_msgs/msg/FeatureMap": "ros2msg",
    }  # fmt: skip
    assert {channel.message_encoding for channel in summary.channels.values()} == {"cdr"}
    assert (metadata.name, metadata.metadata["model"]) == ("brixel-edge", "tiny.onnx")
    text = messages.schema_from_fields(messages.PICTURE_FIELDS).decode()
    assert text.splitlines()[1::2][:4] == [
        "builtin_interfaces/Time timestamp", "string frame_id", "uint8[] data", "string format",
    ]  # fmt: skip


def test_fp16_is_chosen_and_what_does_not_fit_is_refused(tmp_path):
    maps = [features_of(number) for number in range(2)]
    write(tmp_path / "f.mcap", maps, "fp16")
    for read, given in zip(load_recording(tmp_path / "f.mcap"), maps, strict=True):
        assert read.values.dtype == np.float16
        assert (read.values == given.values.astype(np.float16)).all()
    large = features_of(2)
    large.values[0, 0, 0] = 70000
    recorder = McapFile(tmp_path / "g.mcap", MODEL, "fp16")
    recorder.write(maps[0], None)
    with pytest.raises(BundleError, match=r"do not fit into fp16, whose largest number is 65504"):
        recorder.write(large, None)
    recorder.close()
    assert len(list(load_recording(tmp_path / "g.mcap"))) == 1
    write(tmp_path / "h.mcap", [features_of(0, dtype=np.float16)], "fp32")
    [read] = load_recording(tmp_path / "h.mcap")
    assert (read.values.dtype, read.values.tolist()) == (np.float32, features_of(0, dtype=np.float16).values.tolist())


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


KILLED = """
import os, sys, numpy as np
from pathlib import Path
sys.path[:0] = {path!r}
from test_recordings import MODEL, features_of
from brixel_edge.runtimes.recordings.mcap_file import McapFile
recorder = McapFile(Path("f.mcap"), MODEL, None)
for number in range({count}): recorder.write(features_of(number, grid={grid}), None)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("grid", "fewest"), [((64, 80), 40), ((8, 12), 20)])
def test_a_killed_run_leaves_all_whole_chunks(tmp_path, grid, fewest, warnings):
    """Maps of 80 KiB are a chunk each; small ones share one of 64 KiB, of which the last is lost."""
    here = Path(__file__).parent
    code = KILLED.format(path=[str(here), str(here.parent / "stand_ins")], count=40, grid=grid)
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    [left] = list(tmp_path.iterdir())
    read = list(load_recording(left))
    assert len(read) >= fewest
    assert all(same(features, features_of(number, grid=grid)) for number, features in enumerate(read))
    assert f"{left} has no end: the run was killed" in warnings.text


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


def recording_of_three(path):
    """Its maps, its bytes, and where the values of the third lie."""
    maps = [features_of(number, grid=(64, 80)) for number in range(3)]
    write(path, maps)
    data = path.read_bytes()
    return maps, data, data.index(maps[2].values.tobytes()[:64])


def test_a_file_that_was_cut_anywhere_is_read_as_far_as_it_goes(tmp_path, warnings):
    maps, data, third = recording_of_three(tmp_path / "f.mcap")
    cut = tmp_path / "cut.mcap"
    for end, count in [(third - 10_000, 1), (third, 2), (third + 70_000, 2), (len(data) - 30, 3), (len(data) - 1, 3)]:
        cut.write_bytes(data[:end])
        read = list(load_recording(cut))
        assert len(read) == count
        assert all(same(*pair) for pair in zip(read, maps, strict=False))
        assert "cut.mcap has no end" in warnings.text
        warnings.clear()
    assert len(list(load_recording(tmp_path / "f.mcap"))) == 3
    assert "has no end" not in warnings.text
    for end in (9, 200):
        cut.write_bytes(data[:end])
        with pytest.raises(BundleError, match=r"has no features of brixel-run"):
            load_recording(cut)


def test_a_flipped_byte_is_noticed(tmp_path):
    maps, data, third = recording_of_three(tmp_path / "f.mcap")
    (tmp_path / "f.mcap").write_bytes(data[: third + 32] + bytes([data[third + 32] ^ 1]) + data[third + 33 :])
    read = iter(load_recording(tmp_path / "f.mcap"))
    assert same(next(read), maps[0]) and same(next(read), maps[1])
    with pytest.raises(BundleError, match=r"is not an MCAP file, or is damaged \(crc validation failed in Chunk"):
        next(read)


def test_what_is_no_recording_is_refused(tmp_path, graph):
    from mcap.writer import Writer

    empty, text, foreign, none = (tmp_path / f"{name}.mcap" for name in ("empty", "text", "foreign", "none"))
    empty.write_bytes(b"")
    text.write_text("hello, this is not one")
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.start()
    writer.add_message(writer.register_channel("/chat", "json", 0), 0, b"{}", 0)
    writer.finish()
    foreign.write_bytes(stream.getvalue())
    for path, message in [
        (empty, "is empty"),
        (text, "is not an MCAP file, or is damaged"),
        (foreign, "has no features of brixel-run; record with brixel-run --save features.mcap"),
        (none, "cannot be read"),
    ]:
        with pytest.raises(BundleError, match=message):
            load_recording(path)
    assert main([str(graph), "--source", str(foreign), "--headless", "--backend", "ort"]) == 2
    headless = write(tmp_path / "bare.mcap", [features_of(0, frame_bgr=None)])
    assert len(list(load_recording(headless.path))) == 1
    with pytest.raises(BundleError, match=r"has features without their frames; read it with brixel_edge\.load_record"):
        open_source(str(headless.path)).read()
    assert McapFile(tmp_path / "nothing.mcap", MODEL, None).close() is None
    assert not (tmp_path / "nothing.mcap").exists()


def test_without_the_library_one_line_says_what_to_install(graph, tmp_path, monkeypatch, capsys):
    path = tmp_path / "f.mcap"
    write(path, [features_of(0)])
    for name in [name for name in sys.modules if name.split(".")[0] == "mcap"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["--save", str(tmp_path / "g.mcap"), "--headless", "--frames", "1"]) == 3
    assert "pip install 'brixel-edge[record]'" in capsys.readouterr().err
    assert main([str(graph), "--source", str(path), "--headless", "--backend", "ort"]) == 3
    assert "pip install 'brixel-edge[record]'" in capsys.readouterr().err
    with pytest.raises(BackendMissing, match=r"brixel-edge\[record\]"):
        load_recording(path)


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
