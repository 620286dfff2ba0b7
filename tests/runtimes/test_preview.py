"""The page's server: who may ask, what is answered, and that nobody who looks holds up the stream."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import re
import socket
import threading
import time

import cv2
import numpy as np
import pytest
from preview_pages import PICTURE, REPORT, ask, port_of, post
from scenes import CUP_AT, scene

from brixel_edge.errors import SpecError
from brixel_edge.model.head_spec import HeadSpec
from brixel_edge.runtimes.asking.asking import Asking
from brixel_edge.runtimes.asking.requests import Choose, Forget, Point, Show, parse_query
from brixel_edge.runtimes.preview import handler, server, slot
from brixel_edge.runtimes.preview.address import PreviewAddress, parse_address
from brixel_edge.runtimes.preview.metrics import metrics_text
from brixel_edge.runtimes.preview.server import Preview
from brixel_edge.runtimes.preview.slot import PictureSlot


@pytest.mark.parametrize(
    ("text", "host", "port", "has_token"),
    [
        ("", "127.0.0.1", 8800, False),
        ("localhost:1234", "localhost", 1234, False),
        (":1234", "127.0.0.1", 1234, False),
        ("1234", "127.0.0.1", 1234, False),
        ("127.0.0.2", "127.0.0.2", 8800, False),
        ("[::1]:9", "::1", 9, False),
        ("0.0.0.0:0", "0.0.0.0", 0, True),
        ("robot.local:80", "robot.local", 80, True),
        ("[::]:80", "::", 80, True),
    ],
)
def test_addresses_are_read_and_all_but_loopback_get_a_token(text, host, port, has_token):
    address = parse_address(text)
    assert (address.host, address.port) == (host, port)
    assert (address.token is not None and len(address.token) >= 20) is has_token
    assert address.token is None or address.token != parse_address(text).token
    assert address.token is None or address.token not in repr(address)


@pytest.mark.parametrize("text", ["a:b", "host:70000", "host:-1", "vits16.brixel:x", "http://host:80", "user@host:1"])
def test_addresses_that_are_none_are_refused(text):
    with pytest.raises(SpecError, match=r"is not HOST:PORT, for instance 127.0.0.1:8800 .* a model goes before it"):
        parse_address(text)


def test_a_port_that_is_taken_is_refused(serve):
    preview, _ = serve()
    with pytest.raises(SpecError, match=r"--preview 127.0.0.1:\d+ cannot be served \(Address already in use\); choose"):
        Preview(PreviewAddress(port=port_of(preview)), print, dict)


def test_the_page_is_one_file_with_nothing_from_elsewhere(serve):
    preview, _ = serve()
    status, headers, body = ask(preview, "/")
    page = body.decode()
    assert status == 200
    policy = headers["Content-Security-Policy"]
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)[1]
    assert policy.startswith("default-src 'none'; ")
    assert set(re.findall(r"<(?:script|style)([^>]*)>", page)) == {f' nonce="{nonce}"'}
    assert not re.findall(r"https?://|//\w+\.|@import|url\(", page)
    assert not re.findall(r"\son\w+=", page)  # the policy would forbid them
    assert not re.findall(r"innerHTML|insertAdjacentHTML|document\.write", page)
    assert ask(preview, "/")[1]["Content-Security-Policy"] != policy
    for name, value in {
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
        "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
    }.items():  # fmt: skip
        assert headers[name] == value


PATHS = ("/", "/frame.jpg", "/snapshot.png", "/state", "/metrics", "/none")


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_shown(serve, path):
    preview, asked = serve(token="right")
    for more in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"brixel_{port_of(preview)}=wrong"}):
        assert ask(preview, path, **more)[0] == 401
    assert ask(preview, f"{path}?token=wrong")[0] == 401
    assert ask(preview, f"{path}?token=")[0] == 401
    assert post(preview, {"choose": None})[0] == 401
    assert asked == []


def test_the_token_is_taken_from_the_address_the_cookie_and_the_header(serve):
    preview, asked = serve(token="right")
    assert preview.url.endswith("/?token=right")
    status, headers, _ = ask(preview, "/?token=right")
    assert status == 200
    cookie = headers["Set-Cookie"]
    assert re.fullmatch(r"brixel_\d+=right; Path=/; HttpOnly; SameSite=Strict", cookie)
    assert ask(preview, "/state", Cookie=f"a=b; {cookie.split(';')[0]}")[0] == 200
    assert ask(preview, "/metrics", Authorization="Bearer right")[0] == 200
    assert post(preview, {"choose": None}, Cookie=cookie.split(";")[0])[0] == 200
    assert asked == [Choose(name=None)]


def test_tokens_are_compared_in_constant_time(serve, monkeypatch):
    from brixel_edge.runtimes.preview import access

    compared = []
    real = access.hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", lambda *pair: compared.append(pair) or real(*pair))
    preview, _ = serve(token="right")
    ask(preview, "/state?token=wrong")
    assert (b"wrong", b"right") in compared


def test_another_name_that_was_pointed_here_is_refused(serve):
    preview, _ = serve()
    for host in ("evil.example", "evil.example:8800", "127.0.0.1.evil.example", "[evil]", ""):
        assert ask(preview, "/state", host=host or "evil")[0] == 421, host
    for host in ("localhost", "localhost:9000", "127.0.0.1", "[::1]:80", "192.168.0.7:8800", socket.gethostname()):
        assert ask(preview, "/state", host=host)[0] == 200, host


def test_other_pages_change_nothing(serve):
    preview, asked = serve()
    own = f"http://127.0.0.1:{port_of(preview)}"
    for more in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
                 {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}):  # fmt: skip
        assert post(preview, {"choose": None}, **more)[0] == 403, more
    # What a form of another page could send without asking.
    assert post(preview, {"choose": None}, Content_Type="text/plain")[0] == 404
    assert asked == []
    assert post(preview, {"choose": None}, Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    assert asked == [Choose(name=None)]


def test_requests_of_the_page_reach_the_run(serve):
    preview, asked = serve()
    assert post(preview, {"point": {"x": 0.5, "y": 0.5}})[0] == 400  # no frame yet
    preview.site.note(Asking().answer(scene()), scene(), 0.0)
    for record in ({"point": {"x": 0.5, "y": 0.25, "negative": True}}, {"view": "heat"}, {"choose": "tasse à café"},
                   {"forget": "cup"}):  # fmt: skip
        assert post(preview, record)[0] == 200
    assert asked == [
        Point(x=39.5, y=14.5, is_negative=True), Show(view="heat"), Choose(name="tasse à café"), Forget(name="cup"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        [], {}, "view", {"view": "other"}, {"point": {"x": 2, "y": 0}}, {"point": {"x": True, "y": 0}}, {"point": 1},
        {"point": {"y": 0}}, {"choose": ""}, {"choose": "a\nb"}, {"forget": None}, {"choose": "x" * 33},
        {"view": "heat", "choose": None}, {"exec": "ls"}, {"point": {"x": 0, "y": 0, "name": 3}}, {"view": []},
    ],
)  # fmt: skip
def test_other_requests_are_refused(serve, record):
    preview, asked = serve()
    preview.site.note(Asking().answer(scene()), scene(), 0.0)
    assert post(preview, record)[0] == 400
    assert asked == []


def test_bodies_that_are_no_json_or_too_long_are_refused(serve):
    preview, _ = serve()
    for body, status in ((b"{", 400), (b"\xff", 400), (b"[" * 4000, 400), (b"x" * 5000, 413)):
        assert ask(preview, "/requests", "POST", body, Content_Type="application/json")[0] == status


@pytest.mark.parametrize("length", ["", "-1", "much", "\u00b2", "9" * 5000])
def test_a_length_that_is_no_small_number_is_refused(serve, length):
    preview, _ = serve()
    head = ["POST /requests HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {length}"]
    with socket.create_connection(("127.0.0.1", port_of(preview)), timeout=20) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
        assert b" 413 " in connection.recv(65536).partition(b"\r\n")[0]


def test_the_state_is_plain_json(serve):
    preview, _ = serve()
    asking = Asking(queries=[parse_query("cup=30,20")])
    preview.site.note(asking.answer(scene([CUP_AT])), scene([CUP_AT]), 24.0)
    state = json.loads(ask(preview, "/state")[2])
    assert (state["fps"], state["processed"], state["dropped"]) == (24.0, 7, 2)
    assert (state["view"], state["current"]) == ("heat", "cup")
    assert state["stages"]["infer"]["p99_ms"] is None  # JSON has no NaN
    assert state["prototypes"]["cup"] == {
        "score": 1.0, "threshold": pytest.approx(0.5, abs=0.3), "found": True, "box": [20.0, 10.0, 50.0, 30.0],
    }  # fmt: skip


def test_the_state_says_what_the_colours_of_a_head_mean(serve):
    preview, _ = serve()
    preview.site.note(Asking().answer(scene()), scene(), 0.0)
    assert json.loads(ask(preview, "/state")[2])["head"] is None
    answer = np.zeros((*scene().grid, 3), np.float32)
    answer[..., 2] = 1
    answer[: scene().grid[0] // 2, :, 0] = 2
    head = HeadSpec(
        kind="segmentation", outputs=3, classes=("<b>", "b", "c"), colours=((255, 0, 1), (0, 0, 0), (9, 9, 9))
    )
    preview.site.note(Asking().answer(scene()), dataclasses.replace(scene(), answer=answer, head=head), 0.0)
    assert json.loads(ask(preview, "/state")[2])["head"] == {
        "label": "3 classes", "kind": "segmentation", "depth_m": None,
        "classes": [
            {"name": "<b>", "colour": "#ff0001", "share": 0.5}, {"name": "c", "colour": "#090909", "share": 0.5},
        ],
    }  # fmt: skip
    depth = HeadSpec(kind="depth", outputs=1)
    preview.site.note(
        Asking().answer(scene()), dataclasses.replace(scene(), answer=answer[..., :1], head=depth), 0.0, (0.5, 7.5)
    )
    told = json.loads(ask(preview, "/state")[2])["head"]
    assert (told["kind"], told["classes"], told["depth_m"]) == ("depth", [], [0.5, 7.5])


@pytest.mark.parametrize(
    ("state", "status"),
    [("running", 200), ("degraded", 200), ("opening", 200), ("ended", 200), ("stalled", 503), ("reconnecting", 503),
     ("failed", 503)],
)  # fmt: skip
def test_health_is_for_supervisors(serve, state, status):
    preview, _ = serve(health={"state": state, "sources": [{"reason": "secret place"}]})
    found, _, body = ask(preview, "/healthz")
    assert (found, json.loads(body)["state"]) == (status, state)


def test_health_without_the_token_says_the_state_and_nothing_more(serve):
    preview, _ = serve(token="right")
    assert json.loads(ask(preview, "/healthz")[2]) == {"state": "running"}
    assert "secret place" in ask(preview, "/healthz", Authorization="Bearer right")[2].decode()
    assert ask(preview, "/healthz", host="evil.example")[0] == 421


def test_metrics_are_prometheus_text():
    text = metrics_text(REPORT, {'a"b\\': {"score": 0.25, "found": True}}, 2)
    lines = text.splitlines()
    for line in (
        "brixel_frames_in_total 9", "brixel_processed_total 7", "brixel_dropped_total 2", "brixel_fps 12.5",
        "brixel_waiting 0",
        'brixel_stage_seconds{stage="infer",quantile="0.5"} 0.02',
        'brixel_stage_seconds{stage="infer",quantile="0.99"} NaN',
        'brixel_info{model="m \\"x\\"",backend="None",engine="None",precision="None"} 1',
        'brixel_state{state="running"} 1', 'brixel_prototype_score{prototype="a\\"b\\\\"} 0.25',
        'brixel_prototype_found{prototype="a\\"b\\\\"} 1', "brixel_preview_viewers 2",
        "brixel_peak_memory_bytes 1048576", "# TYPE brixel_frames_in_total counter", "# TYPE brixel_fps gauge",
    ):  # fmt: skip
        assert line in lines, line
    assert text.endswith("\n")
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    for line in lines:
        assert re.fullmatch(r'# (HELP|TYPE) brixel_\w+ .+|brixel_\w+(\{(\w+="(\\.|[^"\\])*",?)+\})? \S+', line), line


def test_pictures_are_given_as_jpeg_and_png(serve):
    preview, _ = serve()
    preview.site.slot.put(PICTURE)
    status, headers, body = ask(preview, "/frame.jpg?after=0&viewer=a")
    assert (status, headers["X-Frame"], headers["Content-Type"]) == (200, "1", "image/jpeg")
    decoded = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == PICTURE.shape and abs(int(decoded.mean()) - 90) <= 1
    status, _, body = ask(preview, "/snapshot.png")
    assert status == 200
    assert (cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR) == PICTURE).all()


def test_a_viewer_waits_for_the_next_picture_and_no_longer_than_allowed(serve, monkeypatch):
    preview, _ = serve()
    preview.site.slot.put(PICTURE)
    later = threading.Timer(0.3, preview.site.slot.put, [PICTURE + 1])
    later.start()
    assert ask(preview, "/frame.jpg?after=1&viewer=a")[1]["X-Frame"] == "2"
    later.join()
    monkeypatch.setattr(handler, "WAIT_S", 0.1)
    status, _, body = ask(preview, "/frame.jpg?after=2&viewer=a")
    assert (status, body) == (204, b"")
    assert ask(preview, "/frame.jpg?after=nonsense")[1]["X-Frame"] == "2"


def test_a_picture_is_encoded_once_for_all_and_only_when_somebody_looks(monkeypatch):
    encoded = []
    real = cv2.imencode
    monkeypatch.setattr(slot.cv2, "imencode", lambda *given: encoded.append(given) or real(*given))
    pictures = PictureSlot()
    for number in range(20):
        pictures.put(PICTURE + number)
    assert encoded == []
    found = []
    threads = [
        threading.Thread(target=lambda who=who: found.append(pictures.newer_jpeg(0, str(who), 5))) for who in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(encoded) == 1
    assert {number for number, _ in found} == {20} and len({data for _, data in found}) == 1


def test_who_looks_is_known_and_forgotten():
    now = [100.0]
    pictures = PictureSlot(clock=lambda: now[0])
    assert not pictures.is_watched
    pictures.put(PICTURE)
    pictures.newer(0, "a", 0)
    pictures.newer(0, "b", 0)
    assert pictures.viewers == 2
    now[0] += slot.WATCHED_S - 0.1
    pictures.newer(0, "b", 0)
    assert pictures.viewers == 2
    now[0] += 0.2
    assert pictures.viewers == 1
    now[0] += slot.WATCHED_S
    assert not pictures.is_watched


def test_a_viewer_that_takes_nothing_holds_up_neither_the_stream_nor_the_others(serve, monkeypatch):
    """Its socket's buffers are full: only its own thread waits."""
    monkeypatch.setattr(handler.PreviewHandler, "timeout", 60)
    preview, _ = serve()
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    preview.site.slot.put(noise)
    stuck = socket.create_connection(("127.0.0.1", port_of(preview)))
    with contextlib.closing(stuck):
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(f"GET /snapshot.png HTTP/1.1\r\nHost: 127.0.0.1:{port_of(preview)}\r\n\r\n".encode() * 8)
        time.sleep(0.5)
        start_s = time.monotonic()
        for _ in range(1000):
            preview.site.slot.put(PICTURE)
        put_s = time.monotonic() - start_s
        assert ask(preview, "/frame.jpg?after=0&viewer=b")[1]["X-Frame"] == "1001"
    assert put_s < 30  # a viewer that held it up would do so for the minute until it is given up


def test_connections_are_bounded(serve, monkeypatch):
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    preview, _ = serve()
    held = [socket.create_connection(("127.0.0.1", port_of(preview))) for _ in range(3)]
    time.sleep(0.5)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(preview, "/healthz")
    for connection in held:
        connection.close()
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
            assert ask(preview, "/healthz")[0] == 200
            return
        time.sleep(0.1)
    raise AssertionError("the connections were closed and still count")


def test_closing_sends_waiting_viewers_away(serve, monkeypatch):
    monkeypatch.setattr(handler, "WAIT_S", 60)
    preview, _ = serve()
    found = []
    waiting = threading.Thread(target=lambda: found.append(ask(preview, "/frame.jpg?after=0")[0]))
    waiting.start()
    time.sleep(0.3)
    start_s = time.monotonic()
    preview.close()
    preview.close()
    waiting.join()
    assert found == [204] and time.monotonic() - start_s < 30
    assert not [thread for thread in threading.enumerate() if thread.name == server.NAME]
