"""The wheel: it holds what is on disk, and alone in a fresh environment it runs a stream."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from house import package_folders

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS = package_folders()


def test_wheel_holds_every_module_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        f"{package.replace('.', '/')}/{path.name}"
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).glob("*.py")
    }
    data = {
        f"{package.replace('.', '/')}/{name}" for package, names in SETUPTOOLS["package-data"].items() for name in names
    }
    assert names == expected | data


@pytest.mark.parametrize("script", PYPROJECT["project"]["scripts"])
def test_every_command_answers_help(script):
    run = subprocess.run([Path(sys.executable).parent / script, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"usage: {script}" in run.stdout


def test_every_folder_of_the_code_is_a_listed_package():
    found = {
        path.parent.relative_to(ROOT)
        for folder in SETUPTOOLS["package-dir"].values()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert found == set(FOLDERS.values())


def test_every_folder_with_code_has_an_init():
    for folder in SETUPTOOLS["package-dir"].values():
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def test_the_lock_has_hashes_and_names_no_address():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert text.count("--hash=sha256:") > text.count("==")


def test_wheel_alone_runs_a_stream_from_a_bare_onnx_file(wheel, tmp_path, photograph_paths):
    environment = tmp_path / "env"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("VIRTUAL_ENV", "PYTHONPATH"))}
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(environment)], check=True, env=clean)
    python = environment / "bin" / "python"
    subprocess.run([*uv, "pip", "install", "--python", str(python), str(wheel)], check=True, env=clean)
    graph = tmp_path / "model.onnx"
    graph.write_bytes((ROOT / "brixel_edge" / "default.onnx").read_bytes())
    code = f"""
import importlib.util, brixel_edge
for name in ("torch", "timm", "onnx", "safetensors", "skimage"):
    assert importlib.util.find_spec(name) is None, name
maps = list(brixel_edge.stream({str(graph)!r}, source={str(photograph_paths[0].parent / "*o*e*.png")!r}))
assert len(maps) >= 2 and maps[0].values.shape == (32, 44, 384), (len(maps), maps[0].values.shape)
"""
    run = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert run.returncode == 0, run.stderr
    command = [str(environment / "bin" / "brixel-run"), str(graph), "--source", str(photograph_paths[0]), "--headless"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert run.returncode == 0, run.stderr
    assert "p50" in run.stdout
    command = [str(environment / "bin" / "brixel-run"), "--headless", "--frames", "2"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert run.returncode == 0, run.stderr
    assert "demo: (5 photographs" in run.stdout
    run = subprocess.run(
        [str(environment / "bin" / "brixel-export")], capture_output=True, text=True, cwd=tmp_path, env=clean
    )
    assert run.returncode == 3
    assert "pip install 'brixel-edge[export]'" in run.stderr
