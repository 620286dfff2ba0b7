"""Published weights: fetched once into the cache, checked, found again; without a network it is said what to do."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from brixel_edge.errors import BackendMissing, BundleError, SpecError
from brixel_edge.machine.files import sha256_of
from brixel_edge.model.backbones import BACKBONES
from brixel_edge.network import official_weights
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.official_weights import (
    PUBLISHED,
    adapter_file,
    backbone_file,
    cache_folder,
    known_sha256,
    obtained,
    path_in_cache,
    published,
)
from brixel_edge.network.student import build_refiner, load_student

ADAPTER = published("adapter-vits16")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIXEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_adapter(width=64):
    return build_refiner(width, taps=4).state_dict()


class Drive:
    """Gives what it holds; breaks off after some bytes, if asked to, and goes on from what is there."""

    def __init__(self, content, breaks_at=None):
        self.content, self.breaks_at, self.calls = content, breaks_at, 0

    def __call__(self, entry, target):
        self.calls += 1
        part = target.with_name(f"{target.name}.part")
        start = part.stat().st_size if part.exists() else 0
        with part.open("ab") as stream:
            stream.write(self.content[start : self.breaks_at])
        if self.breaks_at is not None:
            self.breaks_at = None
            raise ConnectionError("connection reset by peer")
        self.sent_after = start
        part.replace(target)


def encoded(tmp_path, state):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    return path.read_bytes()


def test_it_is_fetched_once_and_its_checksum_is_kept(tmp_path, cache):
    drive = Drive(encoded(tmp_path, small_adapter()))
    path = obtained(ADAPTER, drive)
    assert path == cache / "adapters" / "adapter-vits16.pth" == path_in_cache(ADAPTER)
    assert obtained(ADAPTER, drive) == path and drive.calls == 1
    record = json.loads((cache / "adapters" / "adapter-vits16.pth.json").read_text())
    assert record["sha256"] == sha256_of(path) == known_sha256(ADAPTER) and "dinov3-license" in record["licence"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["adapter-vits16.pth", "adapter-vits16.pth.json"]


def test_a_broken_transfer_is_gone_on_with(tmp_path):
    drive = Drive(encoded(tmp_path, small_adapter()), breaks_at=1000)
    with pytest.raises(BackendMissing, match="connection reset by peer"):
        obtained(ADAPTER, drive)
    assert not path_in_cache(ADAPTER).exists() and known_sha256(ADAPTER) is None
    assert obtained(ADAPTER, drive).read_bytes() == drive.content and drive.sent_after == 1000


def test_without_a_network_it_says_where_to_put_the_file(tmp_path):
    def offline(entry, target):
        raise OSError("Name or service not known")

    with pytest.raises(BackendMissing) as raised:
        obtained(ADAPTER, offline)
    message = str(raised.value)
    assert raised.value.exit_code == 3 and "\n" not in message
    assert ADAPTER.address in message and str(path_in_cache(ADAPTER)) in message
    path_in_cache(ADAPTER).write_bytes(encoded(tmp_path, small_adapter()))
    assert obtained(ADAPTER, offline) == path_in_cache(ADAPTER) and known_sha256(ADAPTER)


def test_a_page_instead_of_weights_is_refused_and_removed(cache):
    with pytest.raises(BundleError, match="gave no weights"):
        obtained(ADAPTER, Drive(b"<html>quota exceeded</html>"))
    assert not list((cache / "adapters").glob("*.pth*"))


def test_a_changed_file_is_not_used(tmp_path):
    path = obtained(ADAPTER, Drive(encoded(tmp_path, small_adapter())))
    path.write_bytes(encoded(tmp_path, small_adapter(96)))
    with pytest.raises(BundleError, match="sha256"):
        obtained(ADAPTER, Drive(b""))
    path.unlink()
    with pytest.raises(BundleError, match="another file than before"):
        obtained(ADAPTER, Drive(encoded(tmp_path, small_adapter(32))))
    assert not path.exists()


def test_official_means_the_adapter_of_that_backbone(tmp_path, monkeypatch):
    monkeypatch.setattr(official_weights, "_fetch", Drive(encoded(tmp_path, small_adapter())))
    assert Path(adapter_file(BACKBONES["vit_base_patch16_dinov3"], "official")).name == "adapter-vitb16.pth"
    assert adapter_file(BACKBONES["vit_base_patch16_dinov3"], "own.safetensors") == "own.safetensors"
    with pytest.raises(SpecError, match="vit_small_plus_patch16_dinov3; official is for vit_small_patch16_dinov3"):
        adapter_file(BACKBONES["vit_small_plus_patch16_dinov3"], "official")
    with pytest.raises(SpecError, match="pretrained is for"):
        backbone_file("vit_mini_dinov3", "pretrained")
    with pytest.raises(SpecError, match="adapter-vits16"):
        published("adapter-vitx")


def test_pretrained_and_official_load_like_any_file(tmp_path, monkeypatch):
    spec = BACKBONES["vit_mini_dinov3"]
    monkeypatch.setattr(official_weights, "PUBLISHED", (
        official_weights._backbone("vit_mini_dinov3", spec.timm_name, "test", 1),
        official_weights._adapter("adapter-mini", spec.timm_name, "id", 1),
    ))  # fmt: skip
    source, refiner = load_backbone("vit_mini_dinov3", seed=3), build_refiner(128, taps=4, seed=5)
    files = {}
    for kind, suffix in (("backbone", ".safetensors"), ("adapter", ".pth")):
        files[kind] = tmp_path / f"{kind}{suffix}"
    save_file(source.vit.state_dict(), files["backbone"])
    torch.save(refiner.state_dict(), files["adapter"])
    monkeypatch.setattr(official_weights, "_fetch", lambda e, t: t.write_bytes(files[e.kind].read_bytes()))
    backbone = load_backbone("vit_mini_dinov3", "pretrained")
    student = load_student(backbone, "official")
    assert backbone.trained and student.trained
    expected = source.vit.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.vit.state_dict().items())
    assert all(torch.equal(student.refiner.state_dict()[key], value) for key, value in refiner.state_dict().items())


def test_the_table_is_the_hubs(monkeypatch):
    import timm

    for entry in PUBLISHED:
        if entry.kind == "backbone":
            spec = BACKBONES[entry.name]
            assert timm.get_pretrained_cfg(spec.timm_name).hf_hub_id == entry.source
            assert entry.backbone in spec.timm_name
            assert spec.licence in (entry.licence, "unstated")
    assert [entry.name for entry in PUBLISHED if entry.kind == "adapter"] == [
        "adapter-vits16", "adapter-vitb16", "adapter-vitb16-480", "adapter-vitl16", "adapter-vith16plus",
    ]  # fmt: skip
    monkeypatch.delenv("BRIXEL_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "brixel-edge"


def test_a_fetch_that_ends_without_a_word_and_without_a_file_is_no_network(cache):
    with pytest.raises(BackendMissing, match=r"adapter-vits16 could not be fetched \(nothing arrived\)") as caught:
        obtained(published("adapter-vits16"), fetch=lambda entry, target: None)
    assert caught.value.exit_code == 3
