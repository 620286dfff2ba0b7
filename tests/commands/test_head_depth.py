"""Depth as a head, the whole road: a linear probe on NYUv2's folders, fused, in fp16 too, run, shown in colours."""

import json

import cv2
import numpy as np
import pytest

import brixel_edge
from brixel_edge.commands.eval import main as evaluate
from brixel_edge.commands.export import main as export
from brixel_edge.commands.run import main as run
from brixel_edge.errors import SpecError
from brixel_edge.model.bundle import open_bundle
from brixel_edge.network.head_file import load_head

SIZE = (32, 48)
NEAR_M, FAR_M = 1.0, 4.0


@pytest.fixture(scope="module")
def world(tmp_path_factory, in_tiny_world):
    """NYUv2's folders: the left of every room is near and bright, the right far and dark."""
    root = tmp_path_factory.mktemp("depth")
    for split, scene in (("train", "bedroom"), ("test", "office")):
        folder = root / "nyu" / split / scene
        folder.mkdir(parents=True)
        for number in range(3):
            depth = np.full((48, 72), 1000 * FAR_M, np.uint16)
            depth[:, : 24 + 12 * number] = 1000 * NEAR_M
            depth[:4] = 0
            frame = np.where(depth[..., None] > 2000, 40, 215).astype(np.uint8).repeat(3, axis=2)
            cv2.imwrite(str(folder / f"rgb_{number:05d}.png"), frame)
            cv2.imwrite(str(folder / f"sync_depth_{number:05d}.png"), depth)
    with in_tiny_world():
        yield root


@pytest.fixture(scope="module")
def head(world):
    path = world / "depth.safetensors"
    arguments = [
        "nyuv2-depth", "--data", str(world / "nyu"), "--model", "tiny", "--features", "baseline", "--probe", "linear",
        "--size", f"{SIZE[0]}x{SIZE[1]}", "--seeds", "1", "--epochs", "80", "--threads", "1", "--device", "cpu",
        "--save-head", str(path),
    ]  # fmt: skip
    assert evaluate(arguments) == 0
    return path


@pytest.fixture(scope="module")
def bundle(world, head):
    out = world / "room.brixel"
    arguments = [
        "--backbone", "tiny", "--backbone-weights", "random", "--adapter", "none", "--size", f"{SIZE[0]}x{SIZE[1]}",
        "--no-bench", "--engine", "onnx-fp16", "--head", str(head), "--out", str(out),
    ]  # fmt: skip
    assert export(arguments) == 0
    return out


def frame_of(world):
    return cv2.imread(str(world / "nyu" / "test" / "office" / "rgb_00001.png"))


def test_the_head_is_the_logarithm_of_metres(head):
    spec = load_head(head).spec
    assert (spec.kind, spec.outputs, spec.classes) == ("depth", 1, ())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_map_carries_depth_in_metres(world, bundle, precision):
    parity = open_bundle(bundle).receipt.parity[f"graph.{precision}.onnx"]
    assert parity.gate == precision and parity.answers.kind == "depth" and parity.answers.agreement is None
    assert parity.answers.error <= 0.005 and "depth off by" in parity.line
    with brixel_edge.open_model(bundle, backend="ort", precision=precision, threads=1) as model:
        found = model(frame_of(world))
    rows, columns = found.grid
    assert found.depth_m.shape == (rows, columns)
    # Well inside either half; the wall between lies at half of the picture.
    near, far = found.depth_m[1:, : columns // 3], found.depth_m[1:, -(columns // 3) :]
    assert np.median(near) == pytest.approx(NEAR_M, rel=0.25) and np.median(far) == pytest.approx(FAR_M, rel=0.25)
    with pytest.raises(SpecError, match="this map has no labels: its model has a head of depth"):
        _ = found.labels


def test_run_shows_near_in_red_and_far_in_blue(world, bundle, tmp_path, capsys):
    panels = tmp_path / "panels"
    arguments = [str(bundle), "--source", str(world / "nyu" / "test" / "office"), "--headless", "--save", str(panels),
                 "--backend", "ort", "--precision", "fp32", "--threads", "1", "--json"]  # fmt: skip
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["processed"] >= 3
    panel = cv2.imread(str(next(path for path in sorted(panels.iterdir()) if "rgb_00001" in path.name)))
    height, width = panel.shape[0], panel.shape[1] // 2
    near, far = (panel[height // 2, width + place].astype(int) for place in (width // 8, width - width // 8))
    assert near[2] > max(near[:2]) + 50 and far[0] > max(far[1:])  # BGR
