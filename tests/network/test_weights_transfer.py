"""Published weights over a wire that breaks, by the real gdown, from a server on this machine."""

from __future__ import annotations

import threading

import pytest
import torch
from file_server import FileServer

from brixel_edge.errors import BackendMissing
from brixel_edge.machine.files import sha256_of
from brixel_edge.network.official_weights import known_sha256, obtained, path_in_cache, published
from brixel_edge.network.student import build_refiner


@pytest.fixture
def serving(tmp_path, monkeypatch):
    """Starts a server of some content."""
    monkeypatch.setenv("BRIXEL_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(content):
        servers.append(FileServer(content))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_adapter_s_broken_transfer_goes_on_where_it_ended(serving, tmp_path, monkeypatch):
    gdown = pytest.importorskip("gdown")
    torch.save(build_refiner(64, taps=4).state_dict(), tmp_path / "adapter.pth")
    server = serving((tmp_path / "adapter.pth").read_bytes())
    real = gdown.download
    monkeypatch.setattr(gdown, "download", lambda id, **rest: real(url=f"{server.address}/{id}", **rest))
    entry = published("adapter-vits16")
    with pytest.raises(BackendMissing, match="adapter-vits16 could not be fetched"):
        obtained(entry)
    assert not path_in_cache(entry).exists()
    path = obtained(entry)
    assert path.read_bytes() == server.content and known_sha256(entry) == sha256_of(path)
    assert server.asked_from[0] == 0 and 0 < server.asked_from[-1] <= len(server.content) // 2
