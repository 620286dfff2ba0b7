"""Every extra: it resolves for the worlds it is meant for, and alone in a fresh environment it does what README says.

Needs the package registry; `make extras` runs it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.extras

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
UV = [sys.executable, "-m", "uv"]
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("VIRTUAL_ENV", "PYTHONPATH"))}
X86, ARM64 = "x86_64-manylinux_2_28", "aarch64-manylinux_2_35"
# Their files come from NVIDIA's own index, which a resolver elsewhere cannot ask; nothing depends on their contents.
NVIDIA_ONLY = ("tensorrt-cu12-libs", "tensorrt-cu13-libs", "tensorrt-cu12-bindings", "tensorrt-cu13-bindings")


@pytest.fixture(scope="module", autouse=True)
def registry(tmp_path_factory):
    """Skips where no package registry answers."""
    wish = tmp_path_factory.mktemp("registry") / "wish.in"
    wish.write_text("numpy\n", encoding="utf-8")
    run = subprocess.run([*UV, "pip", "compile", "--quiet", str(wish)], capture_output=True, text=True, env=CLEAN)
    if run.returncode:
        pytest.skip("no package registry can be reached from here")


def left_out(tmp_path: Path, names: Sequence[str]) -> Path:
    """A file of overrides by which nothing of these names is taken."""
    overrides = tmp_path / "overrides.txt"
    overrides.write_text("".join(f"{name} ; python_version < '3'\n" for name in names), encoding="utf-8")
    return overrides


def resolved(tmp_path: Path, extras: str, python: str, platform: str) -> dict[str, str]:
    """What a resolver takes for `brixel-edge[extras]`: versions by name.

    Raises:
        AssertionError: there is no solution; with what the resolver says.
    """
    overrides = left_out(tmp_path, NVIDIA_ONLY)
    options = [part for extra in extras.split(",") for part in ("--extra", extra)]
    where = ["--python-version", python, "--python-platform", platform]
    compile_ = [*UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--overrides", str(overrides)]
    command = [*compile_, *options, *where, str(ROOT / "pyproject.toml")]
    run = subprocess.run(command, capture_output=True, text=True, env=CLEAN)
    assert run.returncode == 0, run.stderr
    return dict(line.split("==") for line in run.stdout.splitlines() if "==" in line)


@dataclass(frozen=True)
class World:
    """Where an extra must resolve, and the major versions that it must come to."""

    extras: str
    platform: str
    pythons: tuple[str, ...]
    majors: dict[str, int]


ALL_PYTHONS = ("3.10", "3.11", "3.12", "3.13")
WORLDS = [
    World("jetpack6", ARM64, ("3.10",), {"cuda-python": 12, "cuda-bindings": 12}),
    World("trt-cu12", X86, ALL_PYTHONS, {"cuda-python": 12, "cuda-bindings": 12}),
    World("trt-cu13", X86, ALL_PYTHONS, {"cuda-python": 13, "cuda-bindings": 13}),
    World("trt", X86, ALL_PYTHONS, {"cuda-python": 13, "cuda-bindings": 13}),
    World("export,trt", X86, ALL_PYTHONS, {"cuda-python": 13, "cuda-bindings": 13, "torch": 2}),
    World("trt-rtx", X86, ALL_PYTHONS, {"cuda-python": 13, "tensorrt-rtx": 1}),
    World("export,trt-rtx", X86, ALL_PYTHONS, {"cuda-python": 13, "torch": 2}),
    World("export,train,openvino,video", X86, ALL_PYTHONS, {"torch": 2, "av": 0}),
    World("record", X86, ALL_PYTHONS, {"mcap": 1}),
    World("record", ARM64, ALL_PYTHONS, {"mcap": 1}),
    World("weights", X86, ALL_PYTHONS, {"gdown": 0}),
    World("eval", X86, ALL_PYTHONS, {"torch": 2, "h5py": 3}),
    World("openvino,video", ARM64, ("3.10", "3.11"), {}),
    World("gpu", X86, ALL_PYTHONS, {}),
    World("ros", X86, ALL_PYTHONS, {"cyclonedds": 0, "rosbags": 0}),
]


@pytest.mark.parametrize(
    ("world", "python"),
    [
        pytest.param(world, python, id=f"{world.extras}-{world.platform[:7]}-{python}")
        for world in WORLDS
        for python in world.pythons
    ],
)
def test_an_extra_resolves_for_its_world(world, python, tmp_path):
    versions = resolved(tmp_path, world.extras, python, world.platform)
    for name, major in world.majors.items():
        assert name in versions
        assert not major or int(versions[name].split(".")[0]) == major, f"{name} {versions[name]}"
    for name in versions.keys() & {"tensorrt-cu12", "tensorrt-cu13"}:
        release = tuple(int(part) for part in versions[name].split(".")[:2])
        assert (10, 3) <= release <= (11, 1), f"{name} {versions[name]}: its API is not recorded"


def test_torch_and_cuda_12_bindings_do_not_meet(tmp_path):
    """Why a board builds without torch: torch 2.11 wants CUDA 13's bindings, JetPack 6 has a driver of CUDA 12."""
    with pytest.raises(AssertionError, match="cuda-bindings"):
        resolved(tmp_path, "export,jetpack6", "3.10", ARM64)


def test_every_extra_has_a_world():
    assert set(EXTRAS) - {"dev"} <= {extra for world in WORLDS for extra in world.extras.split(",")}


@pytest.fixture(scope="module")
def constraints(tmp_path_factory) -> Path:
    """The versions of the lock, so that a new release elsewhere does not change what is tested here."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([A-Za-z0-9_.-]+==\S+(?: ; [^\\\n]+)?) \\$", text, re.MULTILINE)
    # torch's bindings can be newer than the newest cuda-python, which wants those of its own release.
    pins = [pin for pin in pins if not pin.startswith("cuda-")]
    assert len(pins) > 50
    path = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    path.write_text("\n".join(pins) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photograph_paths) -> Path:
    """What the commands work on: a folder of photographs and a short video."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("extras")
    (folder / "photos").mkdir()
    picture = cv2.imread(str(photograph_paths[0]))
    for index in range(16):
        cv2.imwrite(str(folder / "photos" / f"{index:02}.png"), np.roll(picture, 25 * (index + 1), axis=1))
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (160, 120))
    for x in range(12):
        writer.write(np.ascontiguousarray(cv2.resize(picture, (200, 120))[:, x : x + 160]))
    writer.release()
    return folder


MINI = "brixel-export --backbone vit_mini_dinov3 --backbone-weights random --adapter-weights random --size 64x96"
INT8 = f"{MINI} --engine onnx-int8 --calib photos --calib-n 16 --min-speedup 0 --out int8.brixel"
TRAIN = (
    "brixel-train --data photos --val photos --backbone vit_mini_dinov3 --backbone-weights random --adapter conv "
    "--size 64x64 --batch 2 --steps 2 --workers 1 --out run"
)
PROMISES = {
    "": ["brixel-run --headless --frames 2", "brixel-run --source clip.mp4 --headless", "brixel-inspect --help"],
    "openvino": ["brixel-run --source clip.mp4 --headless --backend openvino"],
    "video": ["brixel-run --source clip.mp4 --headless --save out.mp4"],
    "record": [
        "brixel-run --source clip.mp4 --headless --save features.mcap",
        "brixel-run --source features.mcap --headless",
    ],
    "export": [
        f"{MINI} --out fp32.brixel",
        f"{MINI} --engine onnx-fp16 --out fp16.brixel",
        f"{MINI} --engine onnx-bf16 --out bf16.brixel",
        INT8,
        "brixel-run fp32.brixel --source clip.mp4 --headless",
        "brixel-inspect int8.brixel",
        "brixel-verify fp32.brixel",
    ],
    "train": [TRAIN],
    "gpu": ["brixel-run --source clip.mp4 --headless --backend ort"],
    "ros": ["brixel-ros --duration 1", "brixel-doctor"],
    "trt-rtx": ["brixel-run --source clip.mp4 --headless"],
}


# What the others bring must at least be there and load; TensorRT itself comes from NVIDIA's index, or with JetPack.
IMPORTS = {
    "eval": "torch, h5py, scipy, PIL, brixel_edge.commands.eval",
    "weights": "torch, safetensors, huggingface_hub, gdown, brixel_edge.commands.weights",
    "jetpack6": "onnx, cuda.bindings.runtime, brixel_edge.commands.export_from",
    "trt-cu12": "onnx, cuda.bindings.runtime, brixel_edge.export.engine.build",
    "trt-cu13": "cuda.bindings.runtime, brixel_edge.export.engine.build",
    "trt": "cuda.bindings.runtime, brixel_edge.export.engine.build",
}


def installed(tmp_path: Path, extra: str, wheel: Path, constraints: Path) -> Path:
    """A fresh environment with the wheel and one extra, less what only NVIDIA's index has."""
    environment = tmp_path / "env"
    subprocess.run([*UV, "--quiet", "venv", "--python", sys.executable, str(environment)], check=True, env=CLEAN)
    wish = f"brixel-edge[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    overrides = left_out(tmp_path, ("tensorrt-cu12", "tensorrt-cu13"))
    install = [*UV, "--quiet", "pip", "install", "--python", str(environment / "bin" / "python"), wish]
    options = ["--constraint", str(constraints), "--overrides", str(overrides)]
    subprocess.run([*install, *options], check=True, env=CLEAN)
    return environment


@pytest.mark.parametrize("extra", IMPORTS)
def test_what_an_extra_brings_loads_in_a_fresh_environment(extra, wheel, constraints, tmp_path):
    environment = installed(tmp_path, extra, wheel, constraints)
    code = f"import {IMPORTS[extra]}"
    if "cuda" in code:
        code += "; from brixel_edge.machine.cuda import import_cudart; import_cudart().cudaGetDevice"
    run = subprocess.run(
        [str(environment / "bin" / "python"), "-c", code], capture_output=True, text=True, cwd=tmp_path, env=CLEAN
    )
    assert run.returncode == 0, f"{extra}: {run.stderr[-2000:]}"


def test_every_extra_is_installed_alone():
    assert set(EXTRAS) - {"dev"} == (PROMISES.keys() | IMPORTS.keys()) - {""}


@pytest.mark.parametrize("extra", PROMISES, ids=lambda extra: extra or "none")
def test_an_extra_alone_does_what_readme_promises(extra, wheel, constraints, folder, tmp_path):
    environment = installed(tmp_path, extra, wheel, constraints)
    for command in PROMISES[extra]:
        program, *arguments = command.split()
        run = subprocess.run(
            [str(environment / "bin" / program), *arguments], capture_output=True, text=True, cwd=folder, env=CLEAN
        )
        assert run.returncode == 0, f"{extra}: {command}: {run.stderr[-2000:]}"
