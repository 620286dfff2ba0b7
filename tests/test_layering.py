"""A floor imports only floors below it, and the folder is the layer; and what a running stream has imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from house import FLOORS, Import, chamber, circles, floor_of, house_map, imports, room, sources, upward

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "timm", "onnx", "onnxsim", "onnxscript", "tensorrt", "tensorrt_rtx", "safetensors", "torchvision"}
COMMANDS = sorted(
    path.stem for path in (ROOT / "brixel_edge" / "commands").glob("*.py") if "\ndef main(" in path.read_text("utf-8")
)


@pytest.fixture(scope="module")
def modules():
    return sources()


@pytest.fixture(scope="module")
def found(modules):
    return imports(modules)


def test_a_floor_imports_only_floors_below_it(found):
    assert not [f"{entry.importer}:{entry.line} imports {entry.imported}" for entry in upward(found)]


def test_every_room_has_a_floor_and_every_floor_is_there(modules):
    assert {room(name) for name in modules} == {name for rooms in FLOORS for name in rooms}


def test_no_module_imports_itself_by_a_detour(found):
    assert not circles([(entry.importer, entry.imported) for entry in found])


def test_no_folder_within_a_room_imports_itself_by_a_detour(modules, found):
    edges = {(chamber(entry.importer, modules), chamber(entry.imported, modules)) for entry in found}
    assert not circles([(start, end) for start, end in edges if start != end])


@pytest.mark.parametrize(
    "statement",
    [
        "from brixel_edge.runtimes.model import open_model",
        "import brixel_edge.commands.run",
        "def late():\n    from brixel_edge.training import loop",
        "import importlib\nloader = importlib.import_module('brixel_edge.export.ladder')",
    ],
)
def test_a_planted_upward_import_is_found(tmp_path, modules, statement):
    planted = tmp_path / "planted.py"
    planted.write_text(statement)
    faults = upward(imports({**modules, "brixel_edge.model.planted": planted}))
    assert [entry.importer for entry in faults] == ["brixel_edge.model.planted"]


def test_rooms_of_one_floor_do_not_know_each_other():
    entry = Import(importer="brixel_edge.export.ladder", imported="brixel_edge.runtimes.model", line=1)
    assert floor_of("export") == floor_of("runtimes")
    assert upward([entry]) == [entry]


def test_a_planted_circle_is_found():
    assert circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) == [["a", "b", "c"]]
    assert not circles([("a", "b"), ("a", "c"), ("b", "c")])


def test_the_map_names_every_room_and_its_arrows(modules, found):
    lines = house_map(modules, found).splitlines()
    assert [line.split()[1] for line in lines] == [name for rooms in reversed(FLOORS) for name in rooms]
    assert lines[-1].endswith("lines")  # the ground knows nobody


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "README.md", "docs/how-to.md", "docs/training.md"])
def test_every_file_that_a_document_names_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:brixel_edge|export|runtimes|calib|tests|benchmarks|docs|examples)/[\w./-]*)`", text))
    assert named or document == "README.md"
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_contributing_names_every_floor():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for height, rooms in enumerate(FLOORS):
        for name in rooms:
            assert re.search(
                rf"^\| {height} \| `(?:brixel_edge/)?{name}(?:\.py|/(?:__init__\.py)?)?`", text, re.MULTILINE
            ), name


@pytest.mark.parametrize("floor", ["machine", "model", "image", "proof", "runtimes", "calib"])
def test_what_the_device_runs_knows_nothing_of_torch(floor, modules):
    for name, path in modules.items():
        if room(name) == floor:
            text = path.read_text(encoding="utf-8")
            assert "import torch" not in text and "import timm" not in text, name


@pytest.mark.parametrize("room_name", ["errors", "machine", "model"])
def test_the_vocabulary_loads_numpy_alone(room_name, modules, tmp_path):
    names = [name for name in modules if room(name) == room_name]
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
foreign = {{name.split(".")[0] for name in sys.modules}} & ({HEAVY!r} | {{"cv2", "onnxruntime", "openvino", "tqdm"}})
assert not foreign, foreign
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_int8_runs_without_torch_though_it_borrows_from_the_exporter(modules, tmp_path):
    names = [name for name in modules if room(name) == "calib"]
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
assert not {{"torch", "timm", "onnxscript", "matplotlib"}} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("stage", ["export", "runtimes", "calib"])
def test_a_stage_imported_by_its_folder_name_says_what_to_type(stage, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {stage}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    assert f"import brixel_edge.{stage}, not {stage}" in run.stderr


def test_a_stream_loads_neither_torch_nor_onnx(tmp_path, photograph_paths):
    code = f"""
import sys, brixel_edge
assert not {{"numpy", "cv2"}} - set(sys.modules) or "torch" not in sys.modules
maps = list(brixel_edge.stream(None, source={str(photograph_paths[0])!r}))
assert maps[0].values.ndim == 3
loaded = {{name.split(".")[0] for name in sys.modules}} & {HEAVY!r}
assert not loaded, loaded
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command, tmp_path):
    code = f"""
import sys
from brixel_edge.commands.{command} import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
loaded = {{name.split(".")[0] for name in sys.modules}} & ({HEAVY!r} | {{"cv2", "onnxruntime", "openvino"}})
assert not loaded, loaded
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "usage: brixel-" in run.stdout
