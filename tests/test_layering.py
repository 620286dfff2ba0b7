"""Who may import whom, read from the source, and what a running stream has imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"brixel_edge": "brixel_edge", "export": "brixel_edge.export", "runtimes": "brixel_edge.runtimes"}
FOLDERS["calib"] = "brixel_edge.calib"

# What the device needs of brixel_edge/: numpy only. All its other modules are the training core or commands.
VOCABULARY = {
    "errors",
    "spec",
    "backbone_specs",
    "onnx_metadata",
    "bundle",
    "parity",
    "features",
    "fit",
    "resize",
    "pca",
}
VOCABULARY |= {"memory", "receipt", "engine_report", "cuda_device", "proof"}
STAGES = {"brixel_edge.export", "brixel_edge.runtimes", "brixel_edge.calib"}
MAY_IMPORT = {
    "vocabulary": set(),
    "core": set(),
    "brixel_edge.runtimes": set(),
    "brixel_edge.calib": {"brixel_edge.runtimes"},
    "brixel_edge.export": set(),
}
HEAVY = {"torch", "timm", "onnx", "onnxsim", "onnxscript", "tensorrt", "tensorrt_rtx", "safetensors", "torchvision"}


def imports_of(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).glob("*.py"))


def is_core(path: Path) -> bool:
    return path.stem not in VOCABULARY and not is_facade(path)


def is_facade(path: Path) -> bool:
    return path.stem == "__init__" or path.stem.startswith("command")


def all_sources() -> list[tuple[str, Path]]:
    return [(folder, path) for folder in FOLDERS for path in modules(folder)]


@pytest.mark.parametrize(("folder", "path"), all_sources(), ids=lambda value: getattr(value, "stem", value))
def test_stage_imports_only_what_it_may(folder, path):
    if is_facade(path):
        return
    own = FOLDERS[folder]
    layer = own if own in STAGES else "core" if is_core(path) else "vocabulary"
    foreign = {stage for name in imports_of(path) for stage in STAGES if name == stage or name.startswith(stage + ".")}
    assert foreign - {own} <= MAY_IMPORT[layer], f"{path.name} imports {foreign}"


@pytest.mark.parametrize("folder", ["runtimes", "calib"])
def test_device_stages_know_nothing_of_torch_or_of_the_training_core(folder):
    core = {f"brixel_edge.{path.stem}" for path in modules("brixel_edge") if is_core(path)}
    for path in modules(folder):
        names = imports_of(path)
        assert not {name.split(".")[0] for name in names} & {"torch", "timm", "torchvision"}, path
        assert not names & core, path


def test_vocabulary_needs_numpy_and_itself_only():
    allowed = {"numpy", *sys.stdlib_module_names}
    for path in modules("brixel_edge"):
        if path.stem not in VOCABULARY:
            continue
        names = imports_of(path)
        roots = {name.split(".")[0] for name in imports_of(path, top_level_only=True)} - {"brixel_edge"}
        assert roots <= allowed, f"{path.name} imports {roots - allowed} at its top"
        own = {name.split(".")[1] for name in names if name.startswith("brixel_edge.")}
        assert own <= VOCABULARY, f"{path.name} imports {own - VOCABULARY}"


def test_folders_are_flat():
    for folder in FOLDERS:
        nested = [path for path in (ROOT / folder).iterdir() if path.is_dir() and path.name != "__pycache__"]
        assert not nested, nested


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


@pytest.mark.parametrize("command", ["export", "run"])
def test_help_imports_nothing_heavy(command, tmp_path):
    code = f"""
import sys
from brixel_edge.command_{command} import main
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
