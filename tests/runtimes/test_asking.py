"""What is asked of a running stream: requests from any thread, in order, into the frame that was shown."""

from __future__ import annotations

import numpy as np
import pytest
from scenes import CUP, CUP_AT, PLATE, scene

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.asking.asking import Asking
from brixel_edge.runtimes.asking.prototypes import Prototypes
from brixel_edge.runtimes.asking.requests import Choose, Forget, Point, Show, parse_query

PLATE_AT = (PLATE, slice(4, 6), slice(0, 2))
BOTH = scene([CUP_AT, PLATE_AT])


def asked(*requests, features=BOTH, **settings):
    asking = Asking(**settings)
    for request in requests:
        asking.request(request)
    asking.take_requests(features)
    return asking


def test_queries_of_the_command_line_are_taken_from_the_first_frame_alone():
    asking = Asking(queries=[parse_query("cup=30,20"), parse_query("plate=5,45")])
    assert asking.is_needed
    first = asking.answer(BOTH)
    assert (first.view, first.current, list(first.matches)) == ("heat", "plate", ["cup", "plate"])
    moved = asking.answer(scene([(CUP, slice(3, 5), slice(4, 7))]))
    assert moved.matches["cup"].box == (40.0, 30.0, 70.0, 50.0)
    assert moved.matches["plate"].box is None
    assert moved.heat is moved.matches["plate"]


@pytest.mark.parametrize("text", ["", "3", "3,", "a,b", "1,2,3", "=1,2", " =1,2", "nan,1", "cup=1;2", "inf,0"])
def test_queries_that_are_none_are_refused(text):
    with pytest.raises(SpecError, match=r"is not X,Y or NAME=X,Y; for instance --query cup=320,240"):
        parse_query(text)


def test_queries_are_read():
    assert parse_query("3,4.5") == Point(x=3, y=4.5)
    assert parse_query(" red cup =-1,2") == Point(x=-1, y=2, name="red cup")
    assert parse_query("a=b=1,2").name == "a=b"


def test_a_query_outside_of_the_frame_ends_the_run():
    with pytest.raises(SpecError, match="pixel x=300, y=0 has no features; x must be 0 to 79"):
        Asking(queries=[parse_query("300,0")]).answer(BOTH)


def test_points_lie_in_the_frame_that_was_shown():
    asking = asked(Point(x=30, y=20))
    answer = asking.answer(scene([(CUP, slice(3, 5), slice(4, 7))]))
    assert answer.matches["object"].box == (40.0, 30.0, 70.0, 50.0)


def test_a_click_that_hits_nothing_is_said_and_the_next_is_done():
    said = []
    asking = asked(Point(x=300, y=0), Point(x=30, y=20, name="cup"), say=said.append)
    assert len(said) == 1 and "pixel x=300" in said[0]
    assert asking.prototypes.names == ("cup",)


def test_left_and_right_clicks_refine_the_current_thing():
    asking = asked(Point(x=30, y=20, name="cup"), Point(x=5, y=45, is_negative=True))
    assert [len(points) for points in (asking.prototypes["cup"].positive, asking.prototypes["cup"].negative)] == [1, 1]


def test_new_things_get_names_of_their_own_and_can_be_chosen_and_forgotten():
    asking = asked(Point(x=30, y=20), Choose(name=None), Point(x=5, y=45), Choose(name=None), Point(x=70, y=5))
    assert asking.prototypes.names == ("object", "object 2", "object 3")
    for request, current, left in [
        (Choose(name="object"), "object", 3),
        (Forget(), "object 3", 2),
        (Forget(name="object 2"), "object 3", 1),
        (Forget(), "object", 0),
    ]:
        asking.request(request)
        asking.take_requests(BOTH)
        assert (asking.current, len(asking.prototypes)) == (current, left)
    assert asking.answer(BOTH).heat is None
    assert not asking.is_needed


def test_the_heat_map_appears_with_the_first_point_and_the_user_has_the_last_word():
    asking = asked(Point(x=30, y=20))
    assert asking.view == "heat"
    for request, view in [(Show(), "colours"), (Point(x=35, y=20), "colours"), (Show(view="heat"), "heat")]:
        asking.request(request)
        asking.take_requests(BOTH)
        assert asking.view == view
    assert Asking(prototypes=asking.prototypes).view == "heat"
    assert Asking().view == "colours"


def test_frames_are_counted_once():
    asking = asked(Point(x=30, y=20, name="cup"))
    asking.answer(BOTH)
    asking.answer(BOTH, is_counted=False)
    asking.answer(scene())
    entry = asking.summary()["cup"]
    assert (entry["frames"], entry["found"], entry["score"], entry["box"]) == (2, 1, 0.0, None)


def test_every_change_is_kept(tmp_path):
    path = tmp_path / "kitchen.prototypes"
    asking = asked(Point(x=30, y=20, name="cup"), save_to=path)
    assert Prototypes.load(path).names == ("cup",)
    asking.request(Point(x=5, y=45, name="plate"))
    asking.take_requests(BOTH)
    assert Prototypes.load(path).names == ("cup", "plate")
    asking.request(Forget(name="cup"))
    asking.take_requests(BOTH)
    assert Prototypes.load(path).names == ("plate",)


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path):
    said = []
    asked(Point(x=30, y=20), save_to=tmp_path / "none" / "a.prototypes", say=said.append)
    assert len(said) == 1 and "cannot be written" in said[0]


def test_a_flood_of_requests_is_bounded():
    asking = Asking()
    for number in range(1000):
        asking.request(Point(x=30, y=20, name=f"cup {number}"))
    asking.take_requests(BOTH)
    assert len(asking.prototypes) == 64
    assert np.isfinite(asking.answer(BOTH).matches["cup 999"].similarity).all()
