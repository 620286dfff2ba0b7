"""A program's own frames, and several sources at one engine."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest
import tiny_model

import brixel_edge
from brixel_edge.errors import SourceError, SpecError
from brixel_edge.image.resize import resize_image
from brixel_edge.runtimes.sources.clock_picture import read_time
from brixel_edge.runtimes.sources.frames import Frame
from brixel_edge.runtimes.sources.iterables import IterableSource
from brixel_edge.runtimes.stream import feature_stream


def pictures(count):
    return [np.full((40, 60, 3), 10 + 20 * number, np.uint8) for number in range(count)]


def frame_of(image, index=0):
    return Frame(image=image, index=index, t_capture_s=0.0, t_media_s=0.0, capture_s=0.0)


@pytest.mark.parametrize("kind", ["list", "generator", "function"])
def test_any_iterable_or_function_is_a_source(graph, kind):
    frames = pictures(4)
    given = {"list": frames, "generator": (frame for frame in frames), "function": iter([*frames, None]).__next__}[kind]
    before_s = time.monotonic()
    maps = list(brixel_edge.stream(graph, source=given, backend="ort"))
    assert [fm.frame_index for fm in maps] == [0, 1, 2, 3]
    for frame, fm in zip(frames, maps, strict=True):
        np.testing.assert_array_equal(fm.frame_bgr, frame)
        assert before_s <= fm.t_capture_s <= time.monotonic()
        assert abs(fm.t_utc_s - time.time()) < 60
        assert fm.t_stream_s is None
        expected = tiny_model.cell_means(resize_image(frame, 32, 48).astype(float))
        np.testing.assert_allclose(fm.values[..., :3], expected, atol=1e-2)


@pytest.mark.parametrize("is_timed", [False, True], ids=["array", "Frame"])
def test_one_array_may_be_filled_again_and_again(graph, is_timed):
    buffer = np.empty((40, 60, 3), np.uint8)

    def frames():
        for index, picture in enumerate(pictures(6)):
            buffer[:] = picture
            yield (
                Frame(image=buffer, index=index, t_capture_s=0.0, t_media_s=0.0, capture_s=0.0) if is_timed else buffer
            )

    maps = list(brixel_edge.stream(graph, source=frames(), backend="ort"))
    assert [int(fm.frame_bgr[0, 0, 0]) for fm in maps] == [10, 30, 50, 70, 90, 110]


@pytest.mark.parametrize("source", [None, 1.5, True])
def test_what_is_no_source_is_named(graph, source):
    with pytest.raises(SpecError, match=f"the source is {type(source).__name__}; give a camera"):
        next(brixel_edge.stream(graph, source=source, backend="ort"))


def test_a_number_is_a_camera(graph):
    with pytest.raises(SourceError, match="/dev/video97"):
        next(brixel_edge.stream(graph, source=97, backend="ort"))


def test_paths_in_a_list_are_sources(graph, tmp_path):
    for name, picture in zip("ab", pictures(2), strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    assert {fm.source for fm in brixel_edge.stream(graph, source=paths, backend="ort")} == {str(path) for path in paths}


def test_a_frame_with_its_own_time_keeps_it(graph):
    frame = Frame(
        image=pictures(1)[0], index=41, t_capture_s=12.5, t_media_s=0.0, capture_s=0.0, t_stream_s=3.25,
        is_after_gap=True, utc_offset_s=1000.0,
    )  # fmt: skip
    [fm] = brixel_edge.stream(graph, source=[frame], backend="ort")
    assert (fm.t_capture_s, fm.t_utc_s, fm.t_stream_s) == (12.5, 1012.5, 3.25)
    assert (fm.frame_index, fm.is_after_gap, fm.source) == (41, True, "frames of list")


def test_a_generator_is_closed_with_the_stream(graph):
    ended = threading.Event()

    def frames():
        try:
            while True:
                yield pictures(1)[0]
        finally:
            ended.set()

    maps = brixel_edge.stream(graph, source=frames(), backend="ort")
    next(maps)
    maps.close()
    assert ended.wait(10)


def test_what_is_no_picture_is_refused():
    for given, what in [
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \(0, 4, 3\)"),
        (frame_of(np.zeros((4, 4, 3))), "float64"),
        ("x", "str"),
    ]:
        with pytest.raises(SpecError, match=rf"frame 0 of the source is {what}.*; give uint8 arrays"):
            IterableSource([given]).read()


def test_a_policy_overrules_the_source_s_own(graph):
    """A slow loop over a clock: every frame of it, or only young ones."""
    clock = "test:clock?width=96&height=64&fps=100"
    every = brixel_edge.stream(graph, source=clock, policy="every", backend="ort")
    indices = []
    for fm in every:
        indices.append(fm.frame_index)
        time.sleep(0.03)
        if len(indices) == 10:
            break
    every.close()
    assert indices == list(range(10))
    young = brixel_edge.stream(graph, source=clock, policy="max-age=500", backend="ort")
    for count, fm in enumerate(young):
        # The true time stands in the pixels.
        assert fm.t_capture_s == pytest.approx(read_time(fm.frame_bgr), abs=1e-6)
        time.sleep(0.03)
        if count == 9:
            break
    health = young.health()
    young.close()
    assert health["dropped"] > 0
    assert health["frames_in"] == health["delivered"] + health["dropped"] + health["waiting"]
    with pytest.raises(SpecError, match="policy 'all' is not"):
        brixel_edge.stream(graph, source=clock, policy="all")


def test_health_is_one_json(graph):
    import json

    maps = brixel_edge.stream(graph, source="test:pattern?width=96&height=64&fps=50", backend="ort")
    assert maps.health() == {"state": "opening"}
    next(maps)
    health = json.loads(json.dumps(maps.health()))
    maps.close()
    assert health["state"] == "running"
    [source] = health["sources"]
    assert (source["source"], source["policy"]) == ("test:pattern?width=96&height=64&fps=50", "max-age=1000")
    assert source["entered"]["running"] >= 1
    assert maps.health()["state"] == "ended"


def test_several_sources_take_turns(graph):
    """A fast and a slow one share the engine: the fast one cannot keep the slow one waiting."""
    fast, slow = "test:clock?width=96&height=64&fps=200", "test:pattern?width=64&height=64&fps=20"
    maps = brixel_edge.stream(graph, source=[fast, slow], backend="ort")
    found = []
    for fm in maps:
        found.append((fm.source, fm.frame_size))
        time.sleep(0.02)
        if len(found) == 60:
            break
    health = maps.health()
    maps.close()
    assert set(found) == {(fast, (64, 96)), (slow, (64, 64))}
    share = sum(name == slow for name, _ in found) / len(found)
    assert 0.2 < share < 0.6
    assert [source["source"] for source in health["sources"]] == [fast, slow]
    for counts in (health, *health["sources"]):
        assert counts["frames_in"] == counts["delivered"] + counts["dropped"] + counts["waiting"]


def test_one_of_several_may_fail(graph, tmp_path, monkeypatch):
    """The others go on to their end; then it is raised."""

    class Failing(IterableSource):
        is_live = True

        def read(self):
            if (frame := super().read()) is None:
                raise SourceError("camera 1 was lost", kind="timeout")
            return frame

    sources = [IterableSource(pictures(5)), Failing(pictures(1))]
    monkeypatch.setattr(feature_stream, "open_source", lambda *_: sources.pop(0))
    maps = brixel_edge.stream(graph, source=["a", "b"], backend="ort")
    found = []
    with pytest.raises(SourceError, match="camera 1 was lost"):
        for fm in maps:
            found.append(fm.source)
    assert found.count("a") == 5
    assert maps.health()["state"] == "failed"


def test_sources_of_one_name_are_told_apart(graph):
    names = feature_stream.open_sources(["test:clock", "test:clock"], 1.0).names
    assert names == ["test:clock #0", "test:clock #1"]


def test_if_one_does_not_open_none_stays_open(monkeypatch):
    closed = []
    first = IterableSource([])
    first.close = lambda: closed.append(True)
    opened = iter([first])

    def open_next(*_):
        try:
            return next(opened)
        except StopIteration:
            raise SourceError("camera 1 is not there") from None

    monkeypatch.setattr(feature_stream, "open_source", open_next)
    with pytest.raises(SourceError, match="camera 1 is not there"):
        feature_stream.open_sources(["0", "1"], 1.0)
    assert closed == [True]
