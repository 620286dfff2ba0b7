"""README: every command and every block of Python in it is run, as written there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from brixel_edge.errors import BrixelError
from brixel_edge.model.backbones import BACKBONES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def small_dinov3() -> dict[str, torch.Tensor]:
    """A DINOv3 of 4 blocks and 64 channels under Meta's names, standing for the real file."""
    width, state = 64, {}
    generator = torch.Generator().manual_seed(0)

    def add(name: str, *shape: int, offset: float = 0.0) -> None:
        state[name] = torch.randn(*shape, generator=generator) * 0.05 + offset

    add("cls_token", 1, 1, width)
    add("storage_tokens", 1, 4, width)
    add("patch_embed.proj.weight", width, 3, 16, 16)
    add("patch_embed.proj.bias", width)
    for norm in ("norm", *(f"blocks.{i}.norm{k}" for i in range(4) for k in (1, 2))):
        add(f"{norm}.weight", width, offset=1.0)
        add(f"{norm}.bias", width)
    for i in range(4):
        for name, rows, columns in (("attn.qkv", 3 * width, width), ("attn.proj", width, width)):
            add(f"blocks.{i}.{name}.weight", rows, columns)
            if name == "attn.proj":
                add(f"blocks.{i}.{name}.bias", rows)
        for name, rows, columns in (("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width)):
            add(f"blocks.{i}.{name}.weight", rows, columns)
            add(f"blocks.{i}.{name}.bias", rows)
        for name in ("ls1.gamma", "ls2.gamma"):
            add(f"blocks.{i}.{name}", width, offset=0.5)
    return state


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, photograph_paths) -> Path:
    """A folder with everything that README's commands name."""
    import cv2

    from brixel_edge.network.student import build_refiner
    from brixel_edge.network.weights import save_adapter

    folder = tmp_path_factory.mktemp("readme")
    torch.save(small_dinov3(), folder / "dinov3_vits16.pth")
    refiner = build_refiner(64, taps=4)
    assert refiner is not None
    save_adapter(
        folder / "adapter.safetensors",
        refiner.state_dict(),
        {"adapter": "brixel", "dim": 64, "tap_layers": [0, 1, 2, 3]},
    )
    for split in ("train", "test"):
        for part in ("images", "labels"):
            (folder / "camvid" / split / part).mkdir(parents=True)
        frame = cv2.resize(cv2.imread(str(photograph_paths[0])), (96, 64))
        cv2.imwrite(str(folder / "camvid" / split / "images" / "0.png"), frame)
        label = np.repeat(np.arange(12, dtype=np.uint8), 8)  # eleven classes, and what is none
        cv2.imwrite(str(folder / "camvid" / split / "labels" / "0.png"), np.tile(label, (64, 1)))
    (folder / "photos").mkdir()
    for path in photograph_paths[:2]:
        shutil.copy(path, folder / "photos")
    writer = cv2.VideoWriter(str(folder / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (160, 120))
    picture = cv2.resize(cv2.imread(str(photograph_paths[0])), (200, 120))
    for x in range(24):
        writer.write(np.ascontiguousarray(picture[:, x : x + 160]))
    writer.release()
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    if program == "make":
        arguments = ["-C", str(ROOT), *arguments, f"DEMO_OUT={folder / 'demo'}", "DEMO_SECONDS=1"]
    else:
        program = str(BIN / program)
    clean = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, env=clean, timeout=300)


def test_export_commands_write_what_they_name(workshop):
    exports = [command for command in commands() if command.startswith("brixel-export")]
    trained = [command for command in commands() if command.startswith("brixel-eval")]
    assert exports and trained
    for command in trained:  # heads that the exports name
        result = run(command, workshop)
        assert result.returncode == 0, f"{command}: {result.stderr}"
    for command in exports:
        result = run(command, workshop)
        if "--from" in command and importlib.util.find_spec("tensorrt") is None:
            assert result.returncode == 3, f"{command}: {result.stderr}"  # it is for the board
            assert "needs TensorRT: on Jetson" in result.stderr
            continue
        assert result.returncode == 0, f"{command}: {result.stderr}"
        out = workshop / shlex.split(command)[shlex.split(command).index("--out") + 1]
        assert (out / "model.json").is_file()


def test_run_commands_do_what_they_say(workshop):
    if not (workshop / "vits16.brixel").is_dir():
        pytest.skip("needs the model that the export commands write")
    runs = [command for command in commands() if command.startswith("brixel-run")]
    assert len(runs) >= 4
    for command in runs:
        result = run(command, workshop)
        if "--camera" in command and not Path("/dev/video0").exists():
            assert result.returncode == 7, result.stderr
            continue
        assert result.returncode == 0, f"{command}: {result.stderr}"
        assert "p50" in result.stdout
        words = shlex.split(command)
        for flag in {"--save", "--save-prototypes"} & set(words):
            assert (workshop / words[words.index(flag) + 1]).exists(), command


def test_the_doctor_finds_an_engine_that_runs_here(tmp_path):
    [command] = [command for command in commands() if command.startswith("brixel-doctor")]
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "default.onnx (built in) on ort: runs" in result.stdout


def test_the_robot_s_command_is_a_node_that_waits_for_images(workshop):
    pytest.importorskip("cyclonedds", reason="the extra ros is not installed")
    if not (workshop / "street.prototypes").is_file():
        pytest.skip("needs the prototypes that the run commands save")
    [command] = [command for command in commands() if command.startswith("brixel-ros")]
    result = run(f"{command} --duration 1 --json", workshop)
    assert result.returncode == 0, result.stderr
    health = json.loads(result.stdout)
    assert (health["state"], health["received"], health["last_failure"]) == ("active", 0, "")
    assert "images from /camera/image_raw" in result.stderr


def test_readers_of_a_model_directory_answer(workshop):
    if not (workshop / "vits16.brixel").is_dir():
        pytest.skip("needs the model that the export commands write")
    readers = [
        command for command in commands() if command.split()[0] in ("brixel-inspect", "brixel-verify", "brixel-bench")
    ]
    assert len(readers) == 3
    for command in readers:
        result = run(command, workshop)
        assert result.returncode == 0, f"{command}: {result.stderr}"
        assert "graph.fp32.onnx" in result.stdout


def test_make_demo_leaves_its_pictures(workshop):
    assert "make demo" in commands()
    result = run("make demo", workshop)
    assert result.returncode == 0, result.stderr
    for name in ("demo.mp4", "still.png", "statistics.txt", "default.brixel", "baseline.brixel"):
        assert str(workshop / "demo" / name) in result.stdout or (workshop / "demo" / name).exists()


def test_the_packaged_default_model_is_what_the_exporter_makes(workshop, photographs):
    fresh = workshop / "demo" / "default.brixel" / "graph.fp32.onnx"
    if not fresh.is_file():
        pytest.skip("needs the model that make demo exports")
    import cv2
    import onnxruntime

    from brixel_edge.model.bundle import DEFAULT_MODEL
    from brixel_edge.model.onnx_file import spec_from_onnx

    image = cv2.resize(photographs[0], (704, 512))[None]
    features = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
        for path in (fresh, DEFAULT_MODEL)
    ]
    assert np.abs(features[0] - features[1]).max() < 1e-4
    assert spec_from_onnx(fresh) == spec_from_onnx(DEFAULT_MODEL)


def test_make_test_is_the_suite_that_runs_now():
    assert "make test" in commands()
    plan = subprocess.run(["make", "-n", "-C", str(ROOT), "test"], capture_output=True, text=True, check=True)
    assert "-m pytest" in plan.stdout


def test_ci_runs_what_readme_names_and_the_suite_comes_last():
    typed = [
        line for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines() if line.startswith("make")
    ]
    assert {"make check", "make rtx", "make extras", "make arm64", "make opencv4"} <= set(typed)
    assert typed[-1] == "make test"
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [command for command in typed if f"\n{command} " not in contributing]
    plan = subprocess.run(["make", "-n", "-C", str(ROOT), "rtx"], capture_output=True, text=True, check=True)
    assert "-m pytest -m rtx" in plan.stdout


def test_no_other_commands_are_in_readme():
    programs = {command.split()[0] for command in commands()}
    readers = {"brixel-inspect", "brixel-verify", "brixel-bench"}
    others = {"make", "pip", "brixel-export", "brixel-run", "brixel-doctor", "brixel-eval", "brixel-ros"}
    assert programs <= others | readers


class FakeCamera:
    """What cv2.VideoCapture is to the stream: a camera that never ends."""

    def __init__(self, *_: object) -> None:
        self.count = 0

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        return True

    def retrieve(self, *_: object) -> tuple[bool, np.ndarray]:
        self.count += 1
        return True, np.full((480, 640, 3), self.count % 255, np.uint8)

    def read(self, *_: object) -> tuple[bool, np.ndarray]:
        return self.retrieve()

    def get(self, *_: object) -> float:
        return 0.0

    def set(self, *_: object) -> bool:
        return True

    def getBackendName(self) -> str:
        return "FAKE"

    def release(self) -> None:
        pass


def test_python_blocks_run_as_written(workshop, monkeypatch, photographs):
    if not (workshop / "vits16.brixel").is_dir():
        pytest.skip("needs the model that the export commands write")
    import cv2

    from brixel_edge.runtimes.sources.camera import open_camera

    monkeypatch.chdir(workshop)
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    for module in ("opening", "camera"):
        monkeypatch.setattr(
            f"brixel_edge.runtimes.sources.{module}.check_device", lambda _: None
        )  # /dev/video0 is there
    # In this process, where the fake camera is.
    monkeypatch.setattr("brixel_edge.runtimes.sources.opening.ChildSource", open_camera)
    followed = []

    class Enough(Exception):
        pass

    def follow(fm: object, box: object) -> None:
        assert box is None or len(box) == 4
        followed.append(fm)
        if len(followed) == 3:
            raise Enough

    frame = cv2.resize(photographs[0], (640, 480))
    names = {"frame_bgr": frame, "follow": follow}
    with pytest.raises(Enough):
        exec("\n".join(blocks("python")), names)  # README's own text
    assert names["fm"].values.shape == (64, 64, 64)
    assert names["heat"].shape == names["mask"].shape == (64, 64)
    assert names["name"] in names["model"].head.classes
    row, column = np.unravel_index(names["heat"].argmax(), names["heat"].shape)
    assert (row, column) == (240 * 64 // 480, 320 * 64 // 640)
    assert all(isinstance(fm, type(followed[0])) for fm in followed)
    assert names["things"].names == ("cup",)
    assert names["cup"].mask.shape == (64, 64)


def test_exit_codes_are_those_of_the_errors():
    listed = {int(code) for code in re.findall(r"^\| (\d) \|", README, flags=re.MULTILINE)}
    assert listed == {0} | {error.exit_code for error in (BrixelError, *BrixelError.__subclasses__())}


def test_backbones_that_readme_promises_are_in_the_table():
    for name in ("small", "small_plus", "base", "large", "huge_plus", "7b"):
        assert f"vit_{name}_patch16_dinov3" in BACKBONES
    assert {"vit_base_patch16_siglip2", "vit_base_patch16_pe", "vit_base_patch14_dinov2"} <= BACKBONES.keys()
