"""An opened model and a stream on it: right features, right places, right times, everything closed at the end."""

from __future__ import annotations

import dataclasses
import threading
import time

import cv2
import numpy as np
import pytest
import tiny_model

from brixel_edge.errors import BundleError, ParityError, SpecError
from brixel_edge.image.resize import resize_image
from brixel_edge.model.spec import UNTRAINED_NOTICE
from brixel_edge.runtimes.model import open_model
from brixel_edge.runtimes.sources.frames import Frame
from brixel_edge.runtimes.stream import feature_stream
from brixel_edge.runtimes.stream.feature_stream import OpenSources, stream
from brixel_edge.runtimes.stream.stream import Stream


@pytest.fixture
def photograph(photographs):
    return photographs[1]  # 300 x 451


class ListSource:
    """Frames from a list."""

    is_live = False
    fps = 10.0
    skipped = 0
    description = "list"

    def __init__(self, images, is_live=False):
        self.images = list(images)
        self.is_live = is_live
        self.turns = threading.Semaphore(1)  # a live frame appears when the one before has been used
        self.index = 0
        self.closed = False

    def read(self):
        if self.index == len(self.images):
            return None
        if self.is_live:
            assert self.turns.acquire(timeout=30)
        self.index += 1
        image = self.images[self.index - 1]
        return Frame(
            image=image,
            index=self.index - 1,
            t_capture_s=time.monotonic(),
            t_media_s=self.index / 10,
            capture_s=0.0,
            is_after_gap=self.index == 2,
            name=f"{self.index}.png",
        )

    def interrupt(self):
        pass

    def close(self):
        self.closed = True


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_frame_becomes_a_map_in_its_own_coordinates(graph, photograph, backend):
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    with open_model(graph, backend=backend) as model:
        before = time.monotonic()
        features = model(photograph, frame_index=7)
    assert features.values.shape == (8, 12, 4)
    assert features.frame_size == (300, 451)
    assert features.stride_px == (300 / 8, 451 / 12)
    assert features.offset_px == (0, 0)
    assert before <= features.t_capture_s <= time.monotonic()
    assert features.frame_index == 7
    assert features.frame_bgr is photograph
    expected = tiny_model.cell_means(resize_image(photograph, 32, 48).astype(float))
    np.testing.assert_allclose(features.values[..., :3], expected, atol=1e-2)
    assert features.at(x=450, y=299)[:3] == pytest.approx(expected[7, 11], abs=1e-2)


def test_crop_and_pad_are_undone_in_the_map(graph, photograph):
    """A red square in the frame is found under its own pixels, however the frame was fitted."""
    frame = np.zeros((100, 300, 3), np.uint8)
    frame[30:70, 130:170] = (0, 0, 255)
    for fit in ("stretch", "crop", "pad"):
        with open_model(graph, backend="ort", fit=fit) as model:
            features = model(frame)
        red = features.values[..., 2]
        assert features.at(x=150, y=50)[2] > 0.8 * red.max()
        row, column = np.unravel_index(red.argmax(), red.shape)
        y = features.offset_px[0] + (row + 0.5) * features.stride_px[0]
        x = features.offset_px[1] + (column + 0.5) * features.stride_px[1]
        assert abs(y - 50) <= features.stride_px[0]
        assert abs(x - 150) <= features.stride_px[1]


def test_an_rgb_graph_sees_rgb(tmp_path):
    path = tiny_model.save(tmp_path / "rgb.onnx", tiny_model.spec(channels="RGB"))
    blue = np.zeros((32, 48, 3), np.uint8)
    blue[..., 0] = 200
    with open_model(path, backend="ort") as model:
        np.testing.assert_allclose(model(blue).values[0, 0, :3], [0, 0, 200], atol=1e-3)


def test_maps_outlive_the_model(graph, photograph):
    with open_model(graph, backend="ort") as model:
        first = model(photograph)
        kept = first.values.copy()
        model(255 - photograph)
    assert (first.values == kept).all()


def test_a_closed_model_says_so(graph, photograph):
    model = open_model(graph, backend="ort")
    model.close()
    model.close()
    with pytest.raises(SpecError, match=r"tiny\.onnx is closed; open it again with open_model"):
        model(photograph)


def test_untrained_weights_are_said(tmp_path, warnings):
    open_model(tiny_model.save(tmp_path / "t.onnx", tiny_model.spec(trained=False)), backend="ort").close()
    assert f"t.onnx: {UNTRAINED_NOTICE}" in warnings.text
    warnings.clear()
    open_model(tiny_model.save(tmp_path / "t.onnx"), backend="ort").close()
    assert warnings.text == ""


def test_features_that_are_not_finite_are_refused_at_the_start(tmp_path):
    path = tiny_model.save(tmp_path / "nan.onnx", bias=float("inf"))
    with open_model(path, backend="ort") as model, pytest.raises(ParityError, match="gives NaN or Inf"):
        model.warm_up()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no model at"), (b"text", "not an ONNX model"), ("no spec", "carries no brixel spec")],
)
def test_what_is_no_model_is_refused(tmp_path, content, message):
    path = tmp_path / "m.onnx"
    if content == "no spec":
        tiny_model.save(path, has_spec=False)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=message):
        open_model(path)


def test_arguments_that_cannot_be_are_refused_before_loading(tmp_path):
    for arguments, message in [
        ({"fit": "zoom"}, "fit 'zoom'"), ({"threads": 0}, "threads=0"), ({"openvino_precision": "f16"}, "'f16'"),
    ]:  # fmt: skip
        with pytest.raises(SpecError, match=message):
            open_model(tmp_path / "nothing.onnx", **arguments)


@pytest.mark.parametrize("is_live", [False, True])
def test_a_stream_gives_features_with_their_frame_and_times(graph, photograph, is_live):
    images = [photograph, 255 - photograph, photograph[::-1]]
    source = ListSource(images, is_live)
    with open_model(graph, backend="ort") as model, Stream(model, source) as results:
        found = [result for result in results if source.turns.release() is None]
    assert source.closed
    assert [result.name for result in found] == ["1.png", "2.png", "3.png"]
    assert [result.features.is_after_gap for result in found] == [False, True, False]
    for image, result in zip(images, found, strict=True):
        assert result.features.frame_bgr is image
        expected = tiny_model.cell_means(resize_image(image, 32, 48).astype(float))
        np.testing.assert_allclose(result.features.values[..., :3], expected, atol=1e-2)
        times = result.times
        parts_s = times.capture_s + times.wait_s + times.preprocess_s + times.infer_s
        assert times.total_s == pytest.approx(parts_s, abs=1e-6)
        assert times.infer_s > 0
        assert times.preprocess_s > 0


def test_stretching_is_mentioned_once_with_what_to_type(graph, warnings):
    wide = np.zeros((100, 400, 3), np.uint8)
    with open_model(graph, backend="ort") as model, Stream(model, ListSource([wide, wide])) as results:
        list(results)
    assert warnings.text.count("stretched") == 1
    assert "frames of 400x100 are stretched by 2.67 to 48x32" in warnings.text
    assert "--fit crop, --fit pad or a model of brixel-export --size 32x128" in warnings.text
    warnings.clear()
    near = np.zeros((100, 160, 3), np.uint8)
    with open_model(graph, backend="ort") as model, Stream(model, ListSource([near])) as results:
        list(results)
    with open_model(graph, backend="ort", fit="crop") as model, Stream(model, ListSource([wide])) as results:
        list(results)
    assert warnings.text == ""


def test_the_generator_goes_over_a_folder_and_closes_all(graph, photograph, tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), photograph[number * 10 :])
    opened = []
    monkeypatch.setattr(
        feature_stream, "open_model", lambda **given: opened.append(open_model(**given)) or opened[-1], raising=True
    )
    maps = stream(graph, source=str(folder), backend="ort")
    assert next(maps).frame_size == (300, 451)
    assert next(maps).frame_size == (290, 451)
    maps.close()
    with pytest.raises(SpecError, match="is closed"):
        opened[0](photograph)
    assert len(list(stream(graph, source=str(folder), backend="ort"))) == 3


def test_a_source_that_is_not_there_is_said_before_the_model_is_loaded(tmp_path):
    with pytest.raises(BundleError, match="source 'nothing' is not there"):
        next(stream(tmp_path / "neither.onnx", source="nothing"))


def test_a_model_that_does_not_open_lets_the_source_go(tmp_path, monkeypatch):
    from brixel_edge.runtimes.stream.engine_thread import EngineThread

    source = ListSource([])
    monkeypatch.setattr(feature_stream, "open_source", lambda *_: source)
    with pytest.raises(BundleError, match="no model at"):
        next(stream(tmp_path / "nothing.onnx", source="list"))
    assert source.closed

    other = ListSource([])
    engine = EngineThread(
        lambda _: open_model(tmp_path / "nothing.onnx"), lambda: OpenSources(sources=[other], names=["list"]), None
    )
    engine.stop(timeout_s=10)
    assert isinstance(engine.error, BundleError)
    assert engine.is_over
    assert other.closed


class StampedSource(ListSource):
    """Live frames with times of long ago, so that no clock can give them by chance."""

    def read(self):
        frame = super().read()
        if frame is None:
            return None
        return dataclasses.replace(
            frame, index=10 * self.index, t_capture_s=100.0 + self.index, t_stream_s=5.0 + self.index, utc_offset_s=1e6
        )


def test_every_time_and_number_of_a_frame_reaches_its_map(graph, photograph):
    with open_model(graph, backend="ort") as model, Stream(model, StampedSource([photograph] * 3)) as results:
        maps = [result.features for result in results]
    assert [fm.t_capture_s for fm in maps] == [101.0, 102.0, 103.0]
    assert [fm.t_utc_s for fm in maps] == [1000101.0, 1000102.0, 1000103.0]
    assert [fm.t_stream_s for fm in maps] == [6.0, 7.0, 8.0]
    assert [fm.frame_index for fm in maps] == [10, 20, 30]
    assert [fm.is_after_gap for fm in maps] == [False, True, False]
    assert [fm.source for fm in maps] == ["list"] * 3


def test_a_stop_interrupts_the_sources_and_waits_for_a_bounded_time(graph):
    from brixel_edge.runtimes.stream.engine_thread import EngineThread

    class Waiting(ListSource):
        is_live = True

        def __init__(self):
            super().__init__([])
            self.go = threading.Event()

        def read(self):
            self.go.wait()

        def interrupt(self):
            self.go.set()

    source = Waiting()
    engine = EngineThread(
        lambda _: open_model(graph, backend="ort"), lambda: OpenSources(sources=[source], names=["list"]), None
    )
    while engine.stream is None:
        time.sleep(0.01)
    engine.stop(timeout_s=10)
    assert source.go.is_set()
    assert engine.is_over


def test_closing_a_stream_waits_for_less_than_a_second_in_all(graph, monkeypatch):
    """Whatever the readers hang in, Ctrl-C in a user's loop shall end it within a second."""
    from brixel_edge.runtimes.stream.reader import FrameReader

    waits = []
    close = FrameReader.close
    monkeypatch.setattr(FrameReader, "close", lambda self, limit_s: waits.append(limit_s) or close(self, limit_s))
    with open_model(graph, backend="ort") as model:
        Stream(model, [ListSource([]), ListSource([])]).close()
    assert len(waits) == 2
    assert 0 < waits[0] < 0.8
    assert waits[1] <= waits[0]  # of what is left of it
