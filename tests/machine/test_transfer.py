"""Files over a wire that breaks, from a server on this machine."""

import threading
import urllib.error

import pytest
from file_server import FileServer

from brixel_edge.machine.transfer import fetch_file

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started = FileServer(CONTENT)
    threading.Thread(target=started.serve_forever, daemon=True).start()
    yield started
    started.shutdown()
    started.server_close()


def test_a_broken_transfer_goes_on_where_it_ended(server, tmp_path):
    target = tmp_path / "weights.safetensors"
    with pytest.raises(OSError, match="broke off after 512000 of 1024000 bytes; try again"):
        fetch_file(server.address, target, "weights", token="secret")
    assert not target.exists()
    fetch_file(server.address, target, "weights", token="secret")
    assert target.read_bytes() == CONTENT and server.asked_from == [0, 512000]
    assert server.shown == ["Bearer secret"] * 2 and list(tmp_path.iterdir()) == [target]


def test_a_transfer_that_ended_before_its_file_was_named_is_made_again(server, tmp_path):
    with pytest.raises(OSError, match="broke off"):
        fetch_file(server.address, tmp_path / "w", "weights")
    (tmp_path / "w.part").write_bytes(CONTENT)
    fetch_file(server.address, tmp_path / "w", "weights")
    assert (tmp_path / "w").read_bytes() == CONTENT and server.asked_from == [0, len(CONTENT), 0]


def test_another_version_of_the_file_is_not_joined_to_the_first(server, tmp_path):
    with pytest.raises(OSError, match="broke off"):
        fetch_file(server.address, tmp_path / "w", "weights")
    server.content = CONTENT[::-1]
    fetch_file(server.address, tmp_path / "w", "weights")
    assert (tmp_path / "w").read_bytes() == CONTENT[::-1] and server.asked_from == [0, 0]
    assert server.shown == [None, None]


def test_no_such_file_and_no_server_are_os_errors(server, tmp_path):
    server.is_gone = True
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch_file(server.address, tmp_path / "w", "weights")
    with pytest.raises(OSError, match="refused"):
        fetch_file("http://127.0.0.1:9", tmp_path / "w", "weights")
    assert not list(tmp_path.iterdir())
