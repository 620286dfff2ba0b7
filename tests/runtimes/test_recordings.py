"""Recordings of features as files: read by others and by us, cut, damaged, of a killed process."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_model
from recorded_maps import HEAD, MODEL, MODEL_WITH_HEAD, answered, features_of, same, write

from brixel_edge.commands.run import main
from brixel_edge.errors import BackendMissing, BundleError
from brixel_edge.runtimes.recordings import cdr, messages
from brixel_edge.runtimes.recordings.mcap_file import McapFile
from brixel_edge.runtimes.recordings.npz_folder import NpzFolder
from brixel_edge.runtimes.recordings.recording import load_recording
from brixel_edge.runtimes.sources.opening import open_source

pytest.importorskip("mcap")


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


@pytest.mark.parametrize("dim", [4, 0])
def test_a_heads_answer_comes_back_to_the_bit(tmp_path, dim):
    """With the features beside it, and of a graph that gives the answer alone; of several sources, too."""
    maps = [answered(0, dim=dim), answered(1, dim=dim, source="camera 1"), answered(2, dim=dim, frame_bgr=None)]
    write(tmp_path / "f.mcap", maps, model=MODEL_WITH_HEAD)
    recording = load_recording(tmp_path / "f.mcap")
    assert recording.model.spec.head == HEAD
    read = list(recording)
    assert len(read) == 3 and all(same(*pair) for pair in zip(read, maps, strict=True))
    assert (read[1].labels == maps[1].answer.argmax(axis=2)).all()
    assert read[1].class_at(x=20, y=20) in HEAD.classes


def test_others_read_a_heads_answer(tmp_path):
    pytest.importorskip("mcap_ros2")
    maps = [answered(0), answered(1, source="camera 1")]
    write(tmp_path / "f.mcap", maps, model=MODEL_WITH_HEAD)
    found = {topic: decoded for topic, decoded, _ in ros_messages(tmp_path / "f.mcap")}
    assert list(found) == ["/image", "/answer", "/features", "/image_2", "/answer_2", "/features_2"]
    for topic, given in zip(("/answer", "/answer_2"), maps, strict=True):
        told = found[topic]
        assert (told.kind, told.dtype, list(told.shape), told.sequence) == (
            "segmentation", "fp32", [8, 12, 3], given.frame_index,
        )  # fmt: skip
        assert (np.frombuffer(bytes(told.data), "<f4") == given.answer.ravel()).all()


def test_npz_files_hold_a_heads_answer(tmp_path):
    folder = NpzFolder(tmp_path, MODEL_WITH_HEAD, "fp16")
    folder.write(answered(0, dim=0), None)
    with np.load(tmp_path / "000000.npz") as arrays:
        assert (arrays["answer"] == answered(0).answer.astype(np.float16)).all()
        assert arrays["values"].shape == (8, 12, 0)
        spec = json.loads(json.loads(str(arrays["model"]))["spec"])
    assert spec["head"]["classes"] == ["sky", "road", "Tür"]


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


KILLED = """
import os, sys, numpy as np
from pathlib import Path
sys.path[:0] = {path!r}
from recorded_maps import MODEL, features_of
from brixel_edge.runtimes.recordings.mcap_file import McapFile
from brixel_edge.runtimes.recordings.npz_folder import NpzFolder
recorder = McapFile(Path("f.mcap"), MODEL, None)
for number in range({count}): recorder.write(features_of(number, grid={grid}), None)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("grid", "fewest"), [((64, 80), 40), ((8, 12), 20)])
def test_a_killed_run_leaves_all_whole_chunks(tmp_path, grid, fewest, warnings):
    """Maps of 80 KiB are a chunk each; small ones share one of 64 KiB, of which the last is lost."""
    here = Path(__file__).parent
    code = KILLED.format(path=[str(here.parent / "stand_ins")], count=40, grid=grid)
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    [left] = list(tmp_path.iterdir())
    read = list(load_recording(left))
    assert len(read) >= fewest
    assert all(same(features, features_of(number, grid=grid)) for number, features in enumerate(read))
    assert f"{left} has no end: the run was killed" in warnings.text


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
