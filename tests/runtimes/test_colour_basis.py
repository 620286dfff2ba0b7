"""A model's colours: found once, kept beside it, and the same in every process."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import tiny_bundle
import tiny_model

import brixel_edge
from brixel_edge.commands.run import main
from brixel_edge.model.bundle import COLOURS_NAME, open_bundle, write_receipt
from brixel_edge.runtimes.pictures import colour_basis
from brixel_edge.runtimes.pictures.colour_basis import basis_places, colour_basis_of


@pytest.fixture
def root(tmp_path):
    return tiny_bundle.save(tmp_path / "m.brixel", ("graph.fp32.onnx", "graph.int8.ort.onnx"))


@pytest.fixture
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIXEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counted:
    """Photographs that were read."""

    def __init__(self, monkeypatch):
        self.names, real = [], cv2.imread
        monkeypatch.setattr(
            colour_basis.cv2, "imread", lambda name, *more: self.names.append(name) or real(name, *more)
        )


def test_it_is_found_once_and_lies_in_the_model_directory(root, own_cache_folder, monkeypatch):
    counted = Counted(monkeypatch)
    with brixel_edge.open_model(root) as model:
        first = colour_basis_of(model)
        assert len(counted.names) == 5
        assert (root / COLOURS_NAME).is_file()
        assert not (own_cache_folder / "colours").exists()
    with brixel_edge.open_model(root, precision="int8") as model:
        second = colour_basis_of(model)
    assert len(counted.names) == 5
    for name in ("mean", "directions", "limits"):
        assert (getattr(first, name) == getattr(second, name)).all()


def test_it_is_no_part_of_the_model(root, own_cache_folder):
    with brixel_edge.open_model(root) as model:
        colour_basis_of(model)
    write_receipt(root, open_bundle(root).receipt)
    assert COLOURS_NAME not in open_bundle(root).receipt.files


def test_its_directions_are_the_principal_ones_of_the_photographs(root, own_cache_folder, photographs):
    with brixel_edge.open_model(root) as model:
        basis = colour_basis_of(model)
        maps = [model(cv2.imread(str(colour_basis.FOLDER / name))).values for name in colour_basis.PHOTOGRAPHS]
    cells = np.concatenate([values.reshape(-1, 4) for values in maps]).astype(np.float64)
    expected = np.linalg.svd(cells - cells.mean(0), full_matrices=False)[2][:3].T
    assert np.abs(np.abs((expected * basis.directions).sum(0)) - 1).max() < 1e-3


@pytest.mark.parametrize("kind", ["bare", "read only"])
def test_without_a_writable_directory_it_lies_in_the_cache(root, tmp_path, own_cache_folder, monkeypatch, kind):
    counted = Counted(monkeypatch)
    path = tiny_model.save(tmp_path / "tiny.onnx") if kind == "bare" else root
    if kind == "read only":
        real = colour_basis.write_atomically

        def refuse(place, content):
            if place.parent == root:
                raise PermissionError("read only")
            real(place, content)

        monkeypatch.setattr(colour_basis, "write_atomically", refuse)
    for _ in range(2):
        with brixel_edge.open_model(path) as model:
            colour_basis_of(model)
    assert len(counted.names) == 5
    assert [place.suffix for place in (own_cache_folder / "colours").iterdir()] == [".npz"]
    assert not (root / COLOURS_NAME).exists()


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_or_foreign_file_is_found_anew(root, tmp_path, own_cache_folder, damage):
    if damage is None:
        other = tiny_bundle.save(tmp_path / "other.brixel", has_proof=False)
        tiny_model.save(other / "graph.fp32.onnx", bias=7.0)
        write_receipt(other, open_bundle(other).receipt)
        with brixel_edge.open_model(other) as model:
            colour_basis_of(model)
        damage = (other / COLOURS_NAME).read_bytes()
    (root / COLOURS_NAME).write_bytes(damage)
    with brixel_edge.open_model(root) as model:
        colour_basis_of(model)
    assert (root / COLOURS_NAME).read_bytes() != damage


def test_a_model_that_sees_no_difference_has_none(root, monkeypatch, own_cache_folder):
    monkeypatch.setattr(colour_basis, "PHOTOGRAPHS", ())
    with brixel_edge.open_model(root) as model:
        assert colour_basis_of(model) is None
    assert not (root / COLOURS_NAME).exists()


def test_a_slow_model_is_asked_for_two_photographs(root, monkeypatch, own_cache_folder, warnings):
    counted = Counted(monkeypatch)
    monkeypatch.setattr(colour_basis, "_SECONDS", -1.0)
    with brixel_edge.open_model(root) as model:
        colour_basis_of(model)
    assert len(counted.names) == 2
    assert "its colours are those of 2 photographs" in warnings.text


def test_two_processes_show_one_scene_in_the_same_colours(root, tmp_path, own_cache_folder, monkeypatch, photographs):
    """One has seen another photograph before, and runs another engine."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for folder, order in (("one", (0, 1)), ("two", (2, 1))):
        (tmp_path / folder).mkdir()
        for number, photograph in enumerate(order):
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), photographs[photograph])
    run = [sys.executable, "-m", "brixel_edge.commands.run", str(root), "--quiet", "--save"]
    for folder, precision in (("one", "fp32"), ("two", "int8")):
        command = [*run, str(tmp_path / f"out-{folder}"), "--source", str(tmp_path / folder), "--precision", precision]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    shown = [cv2.imread(str(tmp_path / f"out-{folder}" / "000001_1.png")) for folder in ("one", "two")]
    side = shown[0].shape[1] // 2
    height = shown[0].shape[0] - 24  # the caption says which engine
    difference = np.abs(shown[0][:height, side:].astype(int) - shown[1][:height, side:])
    assert difference.max() <= 1


def test_who_paints_nothing_needs_no_colours(root, own_cache_folder, photograph_paths):
    assert main([str(root), "--source", str(photograph_paths[0]), "--headless", "--quiet"]) == 0
    assert not (root / COLOURS_NAME).exists()


def test_bare_graphs_have_one_place(graph, own_cache_folder):
    with brixel_edge.open_model(graph) as model:
        assert [place.parent for place in basis_places(model)] == [own_cache_folder / "colours"]
