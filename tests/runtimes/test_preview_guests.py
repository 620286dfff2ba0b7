"""The page's server and those who mean it no good: broken requests, many viewers, viewers that read nothing."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time

import pytest
from preview_pages import PICTURE, ask, port_of

from brixel_edge.runtimes.preview import server


@pytest.mark.parametrize(
    "line",
    ["GET /frame.jpg?after=" + "9" * 5000, "GET http://[", "POST http://[", "GET " + "/" * 70000, "BREW /", "HEAD /",
     "GET /%0d%0aSet-Cookie:%20a=b", "GET /?token=%0d%0aX-Evil:%201", "GET /frame.jpg?after=\u00b2&viewer=%00"],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_request_of_ours_is_answered_and_says_nothing_on_stderr(serve, line, capfd):
    preview, _ = serve()
    preview.site.slot.put(PICTURE)
    with socket.create_connection(("127.0.0.1", port_of(preview)), timeout=20) as connection:
        connection.sendall(f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode("latin-1"))
        with contextlib.suppress(ConnectionResetError):
            head = connection.recv(65536).partition(b"\r\n\r\n")[0]
            assert head.split()[1] in (b"200", b"400", b"403", b"404", b"414", b"501")
            assert b"Evil" not in head and b"a=b" not in head
    assert ask(preview, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


def test_fifty_viewers_at_once_are_served_or_sent_away_and_hold_up_nobody(serve):
    preview, _ = serve()
    preview.site.slot.put(PICTURE)
    connections = [socket.create_connection(("127.0.0.1", port_of(preview)), timeout=20) for _ in range(50)]
    for connection in connections:  # who asks, and never reads
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /frame.jpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    for _ in range(100):
        preview.site.slot.put(PICTURE)
    answered = 0
    for connection in connections:
        with contextlib.suppress(OSError):
            answered += connection.recv(12) == b"HTTP/1.1 200"
        connection.close()
    assert 1 <= answered <= server.MOST_CONNECTIONS
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(preview, "/healthz")[0] == 200:
                return
        time.sleep(0.1)
    raise AssertionError("it answers nobody any more")
