"""What was asked for, in pictures: heat maps, boxes, masks; and clicks into pictures."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from scenes import CUP_AT, PLATE, scene

from brixel_edge.image.captions import LINE_PX
from brixel_edge.runtimes.asking.asking import Asking
from brixel_edge.runtimes.asking.requests import Point, parse_query
from brixel_edge.runtimes.pictures import window
from brixel_edge.runtimes.pictures.events import Click, KeyPress
from brixel_edge.runtimes.pictures.layers import frame_point, pane_size
from brixel_edge.runtimes.pictures.output import Output
from brixel_edge.runtimes.pictures.painter import Painter

GREY = np.full((60, 80, 3), 128, np.uint8)
SIDE = 480  # of the frame as shown


def with_frame(things=(), **changes):
    return scene(things, frame_bgr=GREY, **changes)


def painted(asking, features):
    return Painter()(features, "facts", None, asking.answer(features))


def brightness(picture, x, y):
    """Around a pixel of the frame, in the right half."""
    column, row = round((x + 0.5) / 80 * SIDE) + SIDE, round((y + 0.5) / 60 * 360)
    return float(picture[row - 5 : row + 5, column - 5 : column + 5].mean())


def test_the_heat_map_glows_where_the_thing_is():
    picture = painted(Asking(queries=[parse_query("30,20")]), with_frame([CUP_AT]))
    inside = [brightness(picture, x, y) for x, y in ((25, 15), (45, 25))]
    outside = [brightness(picture, x, y) for x, y in ((5, 5), (70, 50), (25, 35))]
    assert min(inside) > 2 * max(outside)
    assert min(outside) > 20  # the frame is still to be seen


def test_the_threshold_is_the_middle_of_the_scale():
    """Cells at the threshold have the colour of level 127, by OpenCV's own table."""
    asking = Asking(queries=[parse_query("30,20")])
    features = with_frame([CUP_AT])
    answer = asking.answer(features)
    match = dataclasses.replace(answer.matches["object"], similarity=np.full((6, 8), 0.6, np.float32), threshold=0.6)
    picture = Painter().panes(features, dataclasses.replace(answer, matches={"object": match}))
    colour = cv2.applyColorMap(np.full((1, 1), 127, np.uint8), cv2.COLORMAP_INFERNO)[0, 0]
    cover = 0.92 * (127 / 255) ** 1.5
    expected = 128 * 0.7 * (1 - cover) + colour * cover
    assert np.abs(picture[200, SIDE + 200] - expected).max() <= 2


def test_a_box_and_its_label_are_drawn_into_the_frame():
    features = with_frame([CUP_AT])
    picture = painted(Asking(queries=[parse_query("cup=30,20")]), features)[:360, :SIDE].astype(int)
    changed = np.abs(picture - 128).max(axis=2) > 20
    rows, columns = np.nonzero(changed)
    # 6 shown pixels for one of the frame; the label stands above the box.
    assert (columns.min(), rows.max()) == (pytest.approx(120, abs=2), pytest.approx(180, abs=2))
    assert columns.max() == pytest.approx(300, abs=2)
    assert rows.min() < 58
    assert changed[100, 150]  # the mask is tinted inside
    assert not changed[200:, :].any()


def test_a_thing_that_is_not_there_leaves_the_frame_alone():
    asking = Asking(queries=[parse_query("30,20")])
    asking.answer(with_frame([CUP_AT]))
    picture = painted(asking, with_frame())
    assert (picture[:360, :SIDE] == 128).all()


def test_a_label_at_the_upper_edge_is_inside_the_picture():
    features = with_frame([(CUP_AT[0], slice(0, 2), slice(6, 8))])
    picture = painted(Asking(queries=[parse_query("tasse à café=70,5")]), features)[:360, :SIDE].astype(int)
    label = picture[3:22, SIDE - 100 :]
    assert (label == 0).any()  # black letters


def test_what_the_graph_did_not_see_stays_black_in_the_heat_map():
    features = with_frame([CUP_AT], grid=(6, 4), offset_px=(0.0, 20.0), frame_size=(60, 80))
    picture = painted(Asking(queries=[parse_query("45,20")]), features)
    assert (picture[:360, SIDE : SIDE + 119] == 0).all()
    assert (picture[:360, SIDE + 121 : SIDE + 359].max(axis=(0, 2)) > 0).all()


def test_a_point_of_the_picture_is_one_of_the_frame():
    size = (720, 1280)
    height, width = pane_size(size)
    for x, y in ((0, 0), (width - 1, height - 1), (123, 45)):
        for right in (0, width):
            found = frame_point(x + right, y, size)
            assert found == (pytest.approx((x + 0.5) * 2 - 0.5), pytest.approx((y + 0.5) * 2 - 0.5))
    for x, y in ((0, height), (2 * width, 0), (-1, 0)):
        assert frame_point(x, y, size) is None


class ActedWindow:
    """A window whose events the test writes."""

    def __init__(self):
        self.is_open, self.is_lost, self.shown, self.events = True, False, [], []

    def show(self, picture):
        self.shown.append(picture)

    def poll(self):
        pass

    def take_events(self):
        events, self.events = self.events, []
        return events

    def close(self):
        self.is_open = False


@pytest.fixture
def output(graph):
    import brixel_edge

    acted, asking = ActedWindow(), Asking()
    with brixel_edge.open_model(graph) as model:
        yield Output(model, acted, None, asking), acted, asking


def test_a_click_is_seen_at_once_though_no_frame_comes(output):
    out, acted, asking = output
    out.put(with_frame([CUP_AT]), 0.0, "a.png")
    acted.events = [Click(x=SIDE + 150, y=100, is_negative=False)]
    out.poll()
    assert asking.prototypes.names == ("object",)
    assert len(acted.shown) == 2
    assert brightness(acted.shown[1], 25, 15) > 2 * brightness(acted.shown[1], 70, 50)
    out.poll()
    assert len(acted.shown) == 2  # nothing new


def test_keys_begin_a_thing_forget_one_and_change_the_view(output):
    out, acted, asking = output
    out.put(with_frame([CUP_AT]), 0.0, None)
    acted.events = [Click(x=150, y=100, is_negative=False), Click(x=150, y=300, is_negative=True)]
    out.poll()
    assert len(asking.prototypes["object"].negative) == 1
    for key, state in [
        ("h", ("object", "colours", 1)), ("h", ("object", "heat", 1)), ("n", ("object 2", "heat", 1)),
        ("x", ("object 2", "heat", 1)),
    ]:  # fmt: skip
        acted.events = [KeyPress(key=key)]
        out.poll()
        assert (asking.current, asking.view, len(asking.prototypes)) == state
    acted.events = [Click(x=10, y=10, is_negative=False), KeyPress(key="c")]
    out.poll()
    assert asking.prototypes.names == ("object",)


def test_a_click_on_the_caption_means_nothing(output):
    out, acted, asking = output
    acted.events = [Click(x=10, y=10, is_negative=False)]
    out.poll()  # before the first frame
    out.put(with_frame([CUP_AT]), 0.0, None)
    acted.events = [Click(x=10, y=360 + LINE_PX // 2, is_negative=False)]
    out.poll()
    assert not asking.has_requests and len(asking.prototypes) == 0


def test_without_pictures_things_are_found_all_the_same(graph):
    import brixel_edge

    asking = Asking(queries=[Point(x=30, y=20, name="cup")])
    with brixel_edge.open_model(graph) as model:
        out = Output(model, None, None, asking)
        assert out.is_needed
        out.put(dataclasses.replace(with_frame([CUP_AT]), frame_bgr=None), 0.0, None)
    assert asking.summary()["cup"]["found"] == 1


def test_opencv_s_window_hears_clicks_and_keys(monkeypatch):
    hears, keys = [], iter([ord("h"), 255, ord("q")])
    for name, stand_in in {
        "namedWindow": lambda *_: None, "imshow": lambda *_: None, "getWindowProperty": lambda *_: 1.0,
        "setMouseCallback": lambda _, hear: hears.append(hear), "waitKey": lambda _: next(keys),
        "destroyAllWindows": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(window.cv2, name, stand_in, raising=False)
    shown = window.OpenCvWindow("title")
    hears[0](cv2.EVENT_LBUTTONDOWN, 3, 4, 0, None)
    hears[0](cv2.EVENT_MOUSEMOVE, 5, 6, 0, None)
    hears[0](cv2.EVENT_RBUTTONDOWN, 7, 8, 0, None)
    shown.show(GREY)
    shown.poll()
    assert shown.take_events() == [
        Click(x=3, y=4, is_negative=False), Click(x=7, y=8, is_negative=True), KeyPress(key="h"),
    ]  # fmt: skip
    assert shown.take_events() == []
    assert shown.is_open
    shown.poll()
    assert not shown.is_open
    assert shown.take_events() == []


TK_CODE = """
import numpy as np
from brixel_edge.runtimes.pictures.window import TkWindow
window = TkWindow("brixel test")
window.show(np.zeros((60, 90, 3), np.uint8))
window._root.focus_force()
window.poll()
window._label.event_generate("<Button-1>", x=5, y=6)
window._label.event_generate("<Button-3>", x=7, y=8)
window._root.event_generate("<Key>", keysym="h")
window.poll()
print(*window.take_events(), sep="\\n")
assert window.take_events() == [] and window.is_open
window.close()
"""


def test_tk_s_window_hears_clicks_and_keys(tmp_path):
    if shutil.which("xvfb-run") is None or importlib.util.find_spec("_tkinter") is None:
        pytest.skip("xvfb-run or tkinter is not installed")
    command = ["xvfb-run", "-a", sys.executable, "-c", TK_CODE]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    events = [
        Click(x=5, y=6, is_negative=False), Click(x=7, y=8, is_negative=True), KeyPress(key="h"),
    ]  # fmt: skip
    assert (run.returncode, run.stdout.splitlines()) == (0, [repr(event) for event in events]), run.stderr


def test_the_mask_of_the_current_thing_alone_is_tinted():
    features = with_frame([CUP_AT, (PLATE, slice(4, 6), slice(0, 2))])
    asking = Asking(queries=[parse_query("cup=30,20"), parse_query("plate=5,45")])
    picture = painted(asking, features)[:360, :SIDE].astype(int)
    inside = {"cup": picture[100, 150], "plate": picture[300, 60]}
    assert np.abs(inside["plate"] - 128).max() > 20
    assert (inside["cup"] == 128).all()
