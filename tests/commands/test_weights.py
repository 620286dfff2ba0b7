"""brixel-weights as it is typed."""

import json

import pytest
import torch

from brixel_edge.commands.weights import main
from brixel_edge.network import official_weights
from brixel_edge.network.student import build_refiner


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIXEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        official_weights, "_fetch", lambda entry, target: torch.save(build_refiner(64, taps=4).state_dict(), target)
    )
    return tmp_path / "cache"


def test_what_was_fetched_is_listed_with_its_checksum(cache, capsys):
    assert main(["get", "adapter-vits16", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["path"] == str(cache / "adapters" / "adapter-vits16.pth") and len(record["sha256"]) == 64
    assert main(["list", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["weights"]}
    assert entries["adapter-vits16"]["sha256"] == record["sha256"] and entries["adapter-vitb16"]["path"] is None
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert record["sha256"][:12] in lines[1] and lines[1].endswith("yes") and lines[2].endswith("no")


def test_offline_is_exit_code_3(monkeypatch, capsys):
    def offline(entry, target):
        raise OSError("no route to host")

    monkeypatch.setattr(official_weights, "_fetch", offline)
    assert main(["get", "vit_small_patch16_dinov3"]) == 3
    assert "no route to host" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["get"], ["list", "adapter-vits16"], ["get", "nothing"]])
def test_what_cannot_be_is_one_line(arguments, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "brixel-weights: error:" in printed.err
