"""The memory plan against what brixel-run really takes, from VGA to 4K, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_model

from brixel_edge.machine.memory import MIB
from brixel_edge.runtimes.pictures.targets import Saving
from brixel_edge.runtimes.sources.frames import FrameMemory, memory_of
from brixel_edge.runtimes.sources.opening import open_source
from brixel_edge.runtimes.stream.budget import _frames_bytes, plan_memory
from brixel_edge.runtimes.stream.run_options import RunOptions

TOLERANCE = 0.1
SIZES = {"vga": (480, 640), "hd": (720, 1280), "fhd": (1080, 1920), "uhd": (2160, 3840)}
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")


@pytest.fixture(scope="module")
def sources(tmp_path_factory, photographs):
    """A folder in which each source is made when it is first asked for: sources("vga.mp4"), sources("fhd rgba.png")."""
    folder = tmp_path_factory.mktemp("sources")

    def source(name):
        if ":" in name:
            return name
        path = folder / name
        if not path.exists():
            size, _, kind = name.replace(".", " ", 1 - name.count(" ")).partition(" ")
            make(path, size, kind, photographs[2])
        return path

    return source


def make(path, size, kind, photograph):
    height, width = SIZES[size]
    if kind == "mp4":
        return make_video(path, cv2.resize(photograph, (width + 48, height)), width)
    if kind == "mcap":
        return run(make_beside(path, size, photograph), "8GiB", "--save", path)
    picture = cv2.resize(photograph, (width, height))
    if kind == "folder":
        path.mkdir()
        for number in range(4):
            cv2.imwrite(str(path / f"{number}.jpg"), np.roll(picture, 50 * number, axis=1))
        return None
    if kind.startswith("rgba"):
        picture = np.dstack([picture, np.full((height, width), 200, np.uint8)])
    elif kind.startswith("grey"):
        picture = picture[..., 0]
    elif kind.startswith("16bit"):
        picture = picture.astype(np.uint16) * 257
    return cv2.imwrite(str(path), picture)


def make_beside(path, size, photograph):
    video = path.with_name(f"{size}.mp4")
    if not video.exists():
        make(video, size, "mp4", photograph)
    return video


def make_video(path, picture, width):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, len(picture), "yuv420p"
        for x in range(0, 48, 2):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:, x : x + width]), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def run(source, budget, *more, limit_bytes=None):
    """Exit code and report of brixel-run; with a limit the system itself gives it no more memory than that."""

    def limit():
        import resource

        # Stacks count in full.
        resource.setrlimit(resource.RLIMIT_STACK, (MIB, MIB))
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))

    program = [sys.executable, "-m", "brixel_edge.commands.run", "--headless", "--quiet", "--json", "--backend", "ort"]
    command = [*program, "--source", str(source), "--budget", budget, *map(str, more)]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, preexec_fn=limit if limit_bytes else None
    )
    return ended.returncode, json.loads(ended.stdout)


KEPT = {
    "peak of plan": pytest.approx(1, rel=TOLERANCE),
    "under its limit": True,
    "too little": (6, "MemoryBudgetError"),
}


def contract(source, *more):
    """Three budgets: one that is ample, one that fits, under a limit of the system's, and one that is too small."""
    code, report = run(source, "8GiB", *more)
    assert code == 0, report
    planned = sum(report["memory_plan"].values())
    fitting = round(planned * (1 + TOLERANCE))
    # The system counts what is reserved and never touched in full, and ONNX Runtime's arena grows by doubling.
    fits, limited = run(source, f"{fitting / MIB:.1f}MiB", *more, limit_bytes=2 * fitting)
    refused, small = run(source, f"{planned * (1 - TOLERANCE) / MIB:.1f}MiB", *more)
    return {
        "peak of plan": report["peak_memory_bytes"] / planned,
        "under its limit": fits == 0 and limited["peak_memory_bytes"] <= fitting,
        "too little": (refused, small["error"]["kind"]),
    }


@needs_proc
def test_a_small_video_takes_what_was_planned_at_every_budget(sources):
    assert contract(sources("vga.mp4")) == KEPT


@needs_proc
def test_a_transparent_png_takes_what_was_planned(sources):
    code, report = run(sources("uhd rgba.png"), "8GiB")
    assert code == 0
    assert report["peak_memory_bytes"] == pytest.approx(sum(report["memory_plan"].values()), rel=TOLERANCE)


TABLE = [
    *[f"{size}.mp4" for size in SIZES],
    *[f"{size}.mcap" for size in SIZES],
    *[f"{size} folder" for size in SIZES],
    *[
        f"{size} {kind}"
        for size in ("fhd", "uhd")
        for kind in ("rgb.jpg", "rgb.png", "rgba.png", "grey.png", "16bit.png")
    ],
    *[f"{size} {kind}" for size in ("fhd", "uhd") for kind in ("rgb.webp", "rgba.webp", "rgb.bmp")],
    *[
        f"uhd {kind}"
        for kind in ("rgb.tif", "rgba.tif", "16bit.tif", "grey.tif", "rgb.jp2", "rgba.jp2", "rgb.ppm", "grey.pgm")
    ],
]


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("name", TABLE)
def test_the_peak_is_within_a_tenth_of_the_plan_at_every_budget(sources, name):
    assert contract(sources(name)) == KEPT


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("size", SIZES)
def test_so_it_is_of_what_is_live(sources, size):
    height, width = SIZES[size]
    assert contract(f"test:pattern?width={width}&height={height}", "--frames", "20") == KEPT


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("target", ["out.mp4", "panels", "f.mcap", "maps"])
@pytest.mark.parametrize("size", SIZES)
def test_so_it_is_where_something_is_saved(sources, size, target, tmp_path):
    more = ["--save-features", "npz"] if target == "maps" else []
    assert contract(sources(f"{size}.mp4"), "--save", tmp_path / target, "--force", *more) == KEPT


@pytest.mark.slow
@needs_proc
def test_a_huge_photograph_is_planned_by_its_header(tmp_path, photographs):
    path = tmp_path / "huge.jpg"
    cv2.imwrite(str(path), cv2.resize(photographs[2], (9000, 7000)))
    assert contract(path) == KEPT


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of that kind")
def test_the_limit_of_these_tests_is_one(sources):
    """A process that may have no more than 60 MiB cannot open the model: the limit above does hold."""
    try:
        code, _ = run("demo:", "8GiB", "--frames", "2", limit_bytes=60 * MIB)
    except ValueError:  # it did not even come to its report
        return
    assert code != 0


def test_images_are_planned_by_the_largest(tmp_path):
    for name, side in (("a", 100), ("b", 300), ("c", 200)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((side, 2 * side, 3), np.uint8))
    (tmp_path / "d.png").write_bytes(b"broken")
    fitting = 12 * 600 * (256 + 12 * 300 // 256)
    memory = memory_of(open_source(str(tmp_path)))
    assert memory == FrameMemory(frame_bytes=3 * 300 * 600, own_bytes=fitting, count=4)
    cv2.imwrite(str(tmp_path / "e.png"), np.zeros((200, 200, 4), np.uint16))
    cv2.imwrite(str(tmp_path / "f.png"), np.zeros((2000, 2000, 4), np.uint16))
    memory = memory_of(open_source(str(tmp_path)))
    assert memory.frame_bytes == 3 * 2000**2
    assert memory.own_bytes == (tmp_path / "f.png").stat().st_size + 13 * 2000**2


def test_frames_in_hand_are_counted():
    frames = FrameMemory(frame_bytes=100, own_bytes=7)
    assert _frames_bytes([frames], 50, keeps_frames=False) == 7 + 2 * 100 + 100
    assert _frames_bytes([frames], 1000, keeps_frames=False) == 7 + 2 * 100 + 1000
    alone = FrameMemory(frame_bytes=100, own_bytes=7, may_queue=False)
    assert _frames_bytes([alone], 1000, keeps_frames=False) == 7 + 3 * 100
    assert _frames_bytes([frames], 50, keeps_frames=True) == 7 + 3 * 100 + 100
    assert _frames_bytes([FrameMemory(frame_bytes=100, own_bytes=100, count=1)], 1000, keeps_frames=True) == 200


def test_each_kind_of_output_has_its_item():
    def items(**kinds):
        plan = plan_memory(
            tiny_model.spec(), 1000, "ort", now_bytes=0, queue_bytes=0, frames=[FrameMemory(frame_bytes=1)], **kinds
        )
        return plan.items.get("pictures"), plan.items.get("recording")

    map_bytes = 4 * tiny_model.DIM * 8 * 12
    assert items(has_pictures=False) == (None, None)
    assert items(has_pictures=True) == (64 * MIB, None)
    assert items(has_pictures=True, has_video=False) == (28 * MIB, None)
    assert items(has_pictures=False, keeps_features=True) == (None, 6 * map_bytes)


def test_what_makes_a_video():
    for path, headless, has_video in [
        ("out.mp4", True, True), ("panels", True, False), ("f.mcap", True, False), (None, True, False),
        (None, False, True), ("panels", False, True),
    ]:  # fmt: skip
        options = RunOptions(headless=headless, saving=Saving(path=path and Path(path)))
        assert options.has_video is has_video


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
