"""The device's wheel on the device's processor, emulated: other kernels, other integers, the same features.

`make arm64` runs it. Times mean nothing under emulation.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from board import CPUS, Board, NoBoardError, set_up

pytestmark = pytest.mark.arm64
BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def board(wheel) -> Board:
    try:
        return set_up(wheel)
    except NoBoardError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def model(tmp_path_factory, photograph_paths) -> Path:
    """A small model of random weights at 96 x 128 px in fp32 and INT8, proven on this machine."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("arm64")
    (folder / "photos").mkdir()
    for path in photograph_paths:
        picture = cv2.imread(str(path))
        for index in range(5):
            cv2.imwrite(str(folder / "photos" / f"{path.stem}{index}.png"), np.roll(picture, 90 * (index + 1), axis=1))
    command = [BIN / "brixel-export", "--engine", "onnx-int8", "--calib", "photos", "--calib-n", "16", "--no-bench"]
    command += ["--backbone", "vit_mini_dinov3", "--backbone-weights", "random", "--adapter-weights", "random"]
    command += ["--size", "96x128", "--min-speedup", "0", "--out", "m.brixel"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "m.brixel"


@pytest.fixture(scope="session")
def clip(tmp_path_factory, photograph_paths) -> Path:
    import cv2
    import numpy as np

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    picture = cv2.resize(cv2.imread(str(photograph_paths[0])), (200, 120))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (160, 120))
    for x in range(0, 40, 4):
        writer.write(np.ascontiguousarray(picture[:, x : x + 160]))
    writer.release()
    return path


def test_the_wheel_runs_on_arm64_alone(board, tmp_path):
    code = (
        "import platform, importlib.util, brixel_edge, onnxruntime, cv2;"
        "assert platform.machine() == 'aarch64';"
        "assert not [name for name in ('torch', 'timm', 'onnx') if importlib.util.find_spec(name)];"
        "print(brixel_edge.__version__)"
    )
    run = board.run("cortex-a76", "-c", code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def verified(board: Board, cpu: str, model: Path, tmp_path: Path, engine: str, *, has_openvino: bool = False):
    here = shutil.copytree(model, tmp_path / "m.brixel")
    arguments = ["-m", "brixel_edge.commands.verify", str(here), "--engine", engine, "--json", "--threads", "2"]
    return board.run(cpu, *arguments, cwd=tmp_path, has_openvino=has_openvino)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(("engine", "cosine"), [("onnx", 0.9999), ("onnx-int8", 0.995)])
def test_a_proof_made_on_x86_holds_on_arm64(board, model, tmp_path, cpu, engine, cosine):
    run = verified(board, cpu, model, tmp_path, engine)
    assert run.returncode == 0, run.stdout + run.stderr
    [row] = json.loads(run.stdout)["engines"]
    assert row["engine"].endswith(", ort")
    assert row["passed"] and row["parity"]["cosine_mean"] >= cosine


def test_openvino_on_arm64_is_right_or_refused(board, model, tmp_path):
    """Its fp32 is right; its INT8 was seen with a cosine of 0.84, and then the gate must say so."""
    run = verified(board, "cortex-a76", model, tmp_path / "fp32", "onnx", has_openvino=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {row["engine"] for row in json.loads(run.stdout)["engines"]} >= {"graph.fp32.onnx, openvino"}
    run = verified(board, "cortex-a76", model, tmp_path / "int8", "onnx-int8", has_openvino=True)
    assert run.returncode in (0, 5), run.stderr
    assert run.returncode == 0 or "graph.int8.onnx, openvino misses the int8 gate" in run.stdout


@pytest.mark.parametrize("cpu", CPUS)
def test_a_stream_runs_on_arm64(board, model, clip, tmp_path, cpu):
    arguments = ["-m", "brixel_edge.commands.run", str(model), "--source", str(clip), "--headless", "--frames", "2"]
    run = board.run(cpu, *arguments, "--json", "--backend", "ort", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert (report["processed"], report["backend"]) == (2, "ort")


def test_features_of_the_built_in_model_are_those_of_x86(board, photograph_paths, tmp_path):
    import numpy as np

    import brixel_edge

    code = (
        "import cv2, sys, numpy, brixel_edge;"
        "model = brixel_edge.open_model(backend='ort', threads=2);"
        "numpy.save('there.npy', model(cv2.imread(sys.argv[1])).values)"
    )
    run = board.run("cortex-a76", "-c", code, str(photograph_paths[0]), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    there = np.load(tmp_path / "there.npy")
    import cv2

    with brixel_edge.open_model(backend="ort") as model:
        here = model(cv2.imread(str(photograph_paths[0]))).values
    assert np.abs(there - here).max() < 1e-5 * np.abs(here).max()  # other sums of fp32


def test_the_int8_that_was_exported_runs_on_arm64_where_it_is_right(board, model, clip, tmp_path):
    """OpenVINO is there and preferred by nobody; named, it is refused if its first photograph comes out wrong."""
    here = shutil.copytree(model, tmp_path / "m.brixel")
    arguments = ["-m", "brixel_edge.commands.run", str(here), "--source", str(clip), "--headless", "--frames", "1"]
    run = board.run("cortex-a72", *arguments, "--json", cwd=tmp_path, has_openvino=True)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert (report["engine"], report["precision"], report["backend"]) == ("graph.int8.ort.onnx", "int8", "ort")
    assert report["proof"].startswith("proven here at this first load (cosine mean 0.99")
    named = [*arguments, "--backend", "openvino", "--precision", "int8"]
    run = board.run("cortex-a72", *named, cwd=tmp_path, has_openvino=True)
    assert run.returncode in (0, 5), run.stderr
    assert run.returncode == 0 or "graph.int8.onnx computes something else on OpenVINO" in run.stderr
