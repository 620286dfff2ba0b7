"""The memory plan against what brixel-run really takes, from VGA to 4K, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from brixel_edge.image.headers import size_from_header
from brixel_edge.machine.memory import MIB
from brixel_edge.runtimes.sources.frames import FrameMemory, memory_of
from brixel_edge.runtimes.sources.opening import open_source
from brixel_edge.runtimes.stream.budget import _frames_bytes

TOLERANCE = 0.1
SIZES = {"vga": (480, 640), "hd": (720, 1280), "fhd": (1080, 1920), "uhd": (2160, 3840)}


@pytest.fixture(scope="module")
def videos(tmp_path_factory, photographs):
    av = pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("videos")
    for name, (height, width) in SIZES.items():
        picture = cv2.resize(photographs[2], (width + 48, height))
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for x in range(0, 48, 2):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:, x : x + width]), format="bgr24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return folder


def run(source, budget, *more):
    program = [sys.executable, "-m", "brixel_edge.commands.run", "--headless", "--quiet", "--json", "--backend", "ort"]
    command = [*program, "--source", str(source), "--budget", budget, *map(str, more)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return ended.returncode, json.loads(ended.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
@pytest.mark.parametrize("size", SIZES)
def test_the_peak_is_within_a_tenth_of_the_plan_at_every_budget(videos, size, tmp_path):
    source = videos / f"{size}.mp4"
    code, report = run(source, "4GiB")
    assert code == 0
    planned = sum(report["memory_plan"].values())
    assert report["peak_memory_bytes"] == pytest.approx(planned, rel=TOLERANCE)
    tight = f"{round(planned * 1.05 / MIB)}MiB"
    code, report = run(source, tight)
    assert code == 0
    assert report["peak_memory_bytes"] <= planned * 1.05
    code, report = run(source, f"{round(planned * 0.9 / MIB)}MiB")
    assert (code, report["error"]["kind"]) == (6, "MemoryBudgetError")
    code, report = run(source, "4GiB", "--save", tmp_path / "out.mp4")
    assert report["peak_memory_bytes"] == pytest.approx(sum(report["memory_plan"].values()), rel=TOLERANCE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_a_huge_photograph_is_planned_by_its_header(tmp_path, photographs):
    path = tmp_path / "huge.jpg"
    cv2.imwrite(str(path), cv2.resize(photographs[2], (9000, 7000)))
    code, report = run(path, "4GiB")
    assert code == 0
    assert report["peak_memory_bytes"] == pytest.approx(sum(report["memory_plan"].values()), rel=TOLERANCE)
    code, report = run(path, "300MiB")
    assert (code, report["error"]["kind"]) == (6, "MemoryBudgetError")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_sizes_are_read_from_headers(suffix):
    done, data = cv2.imencode(suffix, np.zeros((37, 53, 3), np.uint8))
    assert done
    assert size_from_header(data.tobytes()) == (37, 53)
    assert size_from_header(data.tobytes()[:9]) is None


def test_webp_of_all_kinds_and_others(tmp_path):
    from io import BytesIO

    from PIL import Image

    picture = Image.fromarray(np.zeros((37, 53, 4), np.uint8))
    for options in ({"lossless": True}, {"exif": b"Exif\0\0II*\0\0\0\0\0"}, {"quality": 50}):
        target = BytesIO()
        picture.save(target, "webp", **options)
        assert size_from_header(target.getvalue()) == (37, 53)
    assert size_from_header(b"II*\0") is None
    assert size_from_header(b"") is None


def test_images_are_planned_by_the_largest(tmp_path):
    for name, side in (("a", 100), ("b", 300), ("c", 200)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((side, 2 * side, 3), np.uint8))
    (tmp_path / "d.png").write_bytes(b"broken")
    assert memory_of(open_source(str(tmp_path))) == FrameMemory(
        frame_bytes=3 * 300 * 600, own_bytes=3 * 300 * 600, count=4
    )


def test_frames_in_hand_are_counted():
    frames = FrameMemory(frame_bytes=100, own_bytes=7)
    assert _frames_bytes([frames], 50, keeps_frames=False) == 7 + 2 * 100 + 100
    assert _frames_bytes([frames], 1000, keeps_frames=False) == 7 + 2 * 100 + 1000
    assert _frames_bytes([frames], 50, keeps_frames=True) == 7 + 3 * 100 + 100
    assert _frames_bytes([FrameMemory(frame_bytes=100, own_bytes=100, count=1)], 1000, keeps_frames=True) == 200


def test_several_sources_share_the_queue_and_the_engine():
    frames = [FrameMemory(frame_bytes=100, own_bytes=7), FrameMemory(frame_bytes=300, own_bytes=9)]
    planned = (7 + 100 + 200) + (9 + 300 + 300) + 300
    assert _frames_bytes(frames, 400, keeps_frames=False) == planned


def test_a_source_that_does_not_know_is_taken_for_full_hd():
    assert memory_of(object()) == FrameMemory.of_video(1080, 1920)


def test_frames_are_not_carried_where_nobody_looks(graph, photograph_paths):
    from brixel_edge.runtimes.model import open_model
    from brixel_edge.runtimes.stream.stream import Stream

    with open_model(graph, backend="ort") as model:
        for keeps in (True, False):
            with Stream(model, open_source(str(photograph_paths[0])), keeps_frames=keeps) as stream:
                [result] = list(stream)
            assert (result.features.frame_bgr is not None) is keeps
