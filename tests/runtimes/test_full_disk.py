"""Recordings on a disk that fills up: an error at once, and everything written until then can be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import tiny_model

from brixel_edge.commands.run import main
from brixel_edge.errors import BundleError
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.features import FeatureMap
from brixel_edge.runtimes.pictures.h264_video import H264Video
from brixel_edge.runtimes.pictures.opencv_video import OpenCvVideo
from brixel_edge.runtimes.pictures.png_folder import PngFolder
from brixel_edge.runtimes.pictures.targets import check_target
from brixel_edge.runtimes.recordings.facts import RecordedModel
from brixel_edge.runtimes.recordings.mcap_file import McapFile
from brixel_edge.runtimes.recordings.npz_folder import NpzFolder
from brixel_edge.runtimes.recordings.recording import load_recording

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs tmpfs or RLIMIT_FSIZE")
av = pytest.importorskip("av")
MANY = 2000  # pictures of noise, of which no disk here holds as many
SIZE = (120, 160)


@contextmanager
def file_limit(size):
    """No file of this process may grow above it."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def noise():
    generator = np.random.default_rng(0)
    while True:
        yield generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def fill(recorder):
    """Pictures written before the error, and the error."""
    with pytest.raises(BundleError) as raised:
        for number, picture in zip(range(MANY), noise(), strict=False):
            recorder.write(picture, number / 30, None)
    return number, str(raised.value)


def frames_in(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def recorder_of(path):
    return OpenCvVideo(path, 30.0) if path.name.startswith("opencv") else H264Video(path)


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv", "opencv.mp4", "opencv.avi"])
def test_a_video_is_whole_until_the_disk_was_full(small_disk, name):
    path = small_disk / name
    recorder = recorder_of(path)
    written, message = fill(recorder)
    recorder.close()
    assert "full" in message
    assert f"ts {recorder.count} frames until then are kept" in message
    assert recorder.description == f"{path} ({recorder.count} frames)"
    assert frames_in(path) == recorder.count >= written - 1 > 20
    assert [entry.name for entry in small_disk.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_a_video_is_whole_until_a_quota_was_reached(tmp_path, name):
    path = tmp_path / name
    with file_limit(300_000):
        recorder = H264Video(path)
        written, message = fill(recorder)
        recorder.close()
    assert "File too large" in message
    assert frames_in(path) == recorder.count >= written - 1 > 20


def test_opencv_s_silence_about_a_quota_is_noticed(tmp_path):
    """It says nothing and leaves a file that nobody can read; that must not be called saved."""
    path = tmp_path / "opencv.mp4"
    with file_limit(500_000):
        recorder = OpenCvVideo(path, 30.0)
        for number, picture in zip(range(300), noise(), strict=False):
            recorder.write(picture, number / 30, None)
        with pytest.raises(BundleError, match=r"what OpenCV wrote .* cannot be read.*brixel-edge\[video\]"):
            recorder.close()
    assert not path.exists()


def test_opencv_s_silence_is_noticed_while_it_writes(tmp_path):
    with file_limit(100_000):
        recorder = OpenCvVideo(tmp_path / "opencv.avi", 30.0)
        with pytest.raises(BundleError, match="grows no more, and OpenCV's writer does not say why"):
            for number in range(3 * (1 << 19) * 2048 // (480 * 640)):
                recorder.write(np.zeros((480, 640, 3), np.uint8), number / 30, None)


def test_a_small_still_picture_is_not_taken_for_a_file_that_does_not_grow(tmp_path):
    recorder = OpenCvVideo(tmp_path / "opencv.mp4", 30.0)
    for number in range(1500):
        recorder.write(np.zeros((64, 96, 3), np.uint8), number / 30, None)
    recorder.close()
    assert frames_in(tmp_path / "opencv.mp4") == 1500


def test_what_a_killed_process_leaves_can_be_played(tmp_path):
    code = (
        "import os, numpy as np\nfrom pathlib import Path\n"
        "from brixel_edge.runtimes.pictures.h264_video import H264Video\n"
        "recorder = H264Video(Path('out.mp4'))\n"
        "for number in range(40): recorder.write(np.full((64, 96, 3), 5 * number, np.uint8), number / 30, None)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60)
    [left] = list(tmp_path.iterdir())
    assert frames_in(left) == 39


def test_pngs_are_whole_or_not_there(small_disk):
    recorder = PngFolder(small_disk)
    written, message = fill(recorder)
    recorder.close()
    assert "No space left on device); is the disk full? The " in message
    names = [f"{number:06d}.png" for number in range(written)]
    assert sorted(entry.name for entry in small_disk.iterdir()) == names
    assert len(names) > 10
    for name, picture in zip(names, noise(), strict=False):
        assert (cv2.imread(str(small_disk / name)) == picture).all()


def test_a_run_on_a_full_disk_ends_with_one_line_its_figures_and_what_it_saved(graph, small_disk, tmp_path, capsys):
    clip = tmp_path / "noise.avi"
    writer = OpenCvVideo(clip, 30.0)
    for number, picture in zip(range(200), noise(), strict=False):
        writer.write(picture, number / 30, None)
    writer.close()
    out = small_disk / "out.mp4"
    code = main([str(graph), "--source", str(clip), "--save", str(out), "--headless", "--quiet", "--backend", "ort"])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    [line] = [line for line in captured.err.splitlines() if "error" in line]
    assert line.startswith(f"brixel-run: error: cannot write {out} (No space left on device)")
    kept = frames_in(out)
    assert f"saved        {out} ({kept} frames)" in captured.err
    assert kept > 2


def map_of(number):
    """A map of 80 KiB that nothing makes smaller, with its frame."""
    generator = np.random.default_rng(number)
    return FeatureMap(
        values=generator.normal(size=(64, 80, 4)).astype(np.float32),
        stride_px=(1.0, 1.0),
        offset_px=(0.0, 0.0),
        frame_size=SIZE,
        t_capture_s=float(number),
        t_utc_s=1e9 + number,
        frame_bgr=generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
    )


def fill_with_maps(recorder):
    with pytest.raises(BundleError) as raised:
        for number in range(MANY):
            recorder.write(map_of(number), None)
    recorder.close()
    return number, str(raised.value)


def recorded_model():
    space = FeatureSpace(model="m", dim=4, digests=("graph:01",))
    return RecordedModel(feature_space=space, spec=tiny_model.spec(), engine="m", precision="fp32", backend="ort")


def check_recording(path, recorder, written, message):
    assert f"Its {recorder.count} frames until then are kept" in message
    assert recorder.count == written > 5
    maps = list(load_recording(path))
    assert len(maps) == written
    assert all((features.values == map_of(number).values).all() for number, features in enumerate(maps))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_recording_is_whole_until_the_disk_was_full(small_disk):
    pytest.importorskip("mcap")
    recorder = McapFile(small_disk / "f.mcap", recorded_model(), None)
    written, message = fill_with_maps(recorder)
    assert "No space left on device" in message
    check_recording(small_disk / "f.mcap", recorder, written, message)


def test_a_recording_is_whole_until_a_quota_was_reached(tmp_path, warnings):
    """Cut and closed, it is an MCAP file as its format wants it: no warning, and other readers take it too."""
    reader = pytest.importorskip("mcap.reader")
    path = tmp_path / "f.mcap"
    with file_limit(1_000_000):
        recorder = McapFile(path, recorded_model(), None)
        written, message = fill_with_maps(recorder)
    assert "File too large" in message
    check_recording(path, recorder, written, message)
    assert "has no end" not in warnings.text
    with path.open("rb") as stream:
        assert len(list(reader.make_reader(stream).iter_messages("/features"))) == written
    assert path.read_bytes().endswith(b"\x89MCAP0\r\n")


@pytest.mark.parametrize("room", [20, 60, 400])
def test_a_disk_that_is_full_at_the_index_keeps_every_frame(tmp_path, room):
    pytest.importorskip("mcap")
    path = tmp_path / "f.mcap"
    recorder = McapFile(path, recorded_model(), None)
    for number in range(3):
        recorder.write(map_of(number), None)
    with file_limit(recorder.temporary.stat().st_size + room), pytest.raises(BundleError, match=r"Its 3 frames until"):
        recorder.close()
    assert len(list(load_recording(path))) == 3


def test_npz_files_are_whole_or_not_there(small_disk):
    recorder = NpzFolder(small_disk, recorded_model(), None)
    written, message = fill_with_maps(recorder)
    assert f"No space left on device); is the disk full? The {written} npz files before it are whole" in message
    names = [f"{number:06d}.npz" for number in range(written)]
    assert sorted(entry.name for entry in small_disk.iterdir()) == names
    assert len(names) > 5
    for number, name in enumerate(names):
        with np.load(small_disk / name) as kept:
            assert (kept["values"] == map_of(number).values).all()


@pytest.mark.parametrize("target", ["f.mcap", "maps"])
def test_a_run_that_records_features_on_a_full_disk_ends_with_one_line(graph, small_disk, tmp_path, capsys, target):
    if target == "f.mcap":
        pytest.importorskip("mcap")
    clip = tmp_path / "noise.avi"
    writer = OpenCvVideo(clip, 30.0)
    for number, picture in zip(range(200), noise(), strict=False):
        writer.write(picture, number / 30, None)
    writer.close()
    out = small_disk / target
    more = ["--save-features", "npz"] if target == "maps" else []
    command = [str(graph), "--source", str(clip), "--save", str(out), *more, "--headless", "--quiet"]
    assert main([*command, "--backend", "ort"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = [line for line in captured.err.splitlines() if "error" in line]
    assert line.startswith("brixel-run: error: cannot write ") and "No space left on device" in line
    kept = len(list(load_recording(out) if target == "f.mcap" else out.glob("*.npz")))
    assert f"({kept} {'frames' if target == 'f.mcap' else 'npz files'})" in captured.err
    assert kept > 5


def test_a_full_disk_is_found_before_the_model_is_loaded(small_disk, capsys, monkeypatch):
    from brixel_edge.runtimes.stream import run as stream_run

    (small_disk / "ballast").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    monkeypatch.setattr(stream_run, "StreamRun", None)  # calling it would be an error
    for name in ("out.mp4", "panels", "features.mcap"):
        assert main(["--source", "demo:", "--save", str(small_disk / name), "--headless"]) == 2
        assert "cannot be written (No space left on device); make room" in capsys.readouterr().err
    assert [entry.name for entry in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_nothing_is_overwritten_without_force(tmp_path, name, capsys):
    path = tmp_path / name
    path.write_text("mine")
    with pytest.raises(BundleError, match="is there; choose another name, or --force replaces it"):
        check_target(path)
    assert main(["--save", str(path), "--headless", "--frames", "1"]) == 2
    assert path.read_text() == "mine"
    check_target(path, is_replacing=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert path.read_text() == "mine"


def test_force_replaces_a_video_and_the_pngs_of_a_folder(graph, tmp_path, photograph_paths, capsys):
    folder = tmp_path / "panels"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    stem = f"000000_{photograph_paths[0].stem}.png"
    (folder / stem).write_text("old")
    video = tmp_path / "out.mp4"
    video.write_text("old")
    common = [str(graph), "--source", str(photograph_paths[0]), "--headless", "--quiet", "--backend", "ort"]
    for target in (folder, video):
        assert main([*common, "--save", str(target)]) == 2
        assert main([*common, "--save", str(target), "--force"]) == 0, capsys.readouterr().err
    assert (folder / "mine.txt").read_text() == "mine"
    assert cv2.imread(str(folder / stem)) is not None
    assert frames_in(video) == 1
